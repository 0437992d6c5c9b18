"""Information of firings and experts: exact nulls, planted experts, the same computed plainly."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from conftest import cached
from families import tiny
from moediff.activations.rows import AlignedRows
from moediff.core.errors import UserError
from moediff.corpus.token_shards import read_token_shard
from moediff.experts import information, strata
from moediff.experts.affinity import _best, feature_affinity, layers_of
from moediff.experts.firings import Firings, Part, firing_blocks, firings
from moediff.experts.information import Information
from routed import fires, made_dictionary, routed_rows

CPU = torch.device("cpu")


# --- information --------------------------------------------------------------------------------


def fired_where(mask: np.ndarray) -> Firings:
    """Firings of a mask [row, F]."""
    starts = np.concatenate([[0], np.cumsum(mask.sum(1))])
    return Firings(np.nonzero(mask)[1].astype(np.int32), starts, mask.shape[1])


def affinity(
    fired: Firings, tokens: np.ndarray, experts: np.ndarray, n_experts: int
) -> Information:
    """With all rows in one part."""
    return information.affinity([Part(fired, tokens, experts)], fired.count, n_experts)


def whole_choice(
    fired: Firings, tokens: np.ndarray, experts: np.ndarray, **more: int
) -> Information:
    """With all rows in one part."""
    return information.whole_choice([Part(fired, tokens, experts)], fired.count, **more)


def chosen(weights: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """k experts a row [row, k], drawn by weights [row, E] without replacement."""
    noise = random.gumbel(size=weights.shape)
    return np.argsort(-(np.log(weights) + noise), axis=1)[:, :k]


def plain_information(x: np.ndarray, y: np.ndarray) -> float:
    """Mutual information in nats of two labels [row], from its definition."""
    total = 0.0
    for a, b in itertools.product(set(x.tolist()), set(y.tolist())):
        joint = float(((x == a) & (y == b)).mean())
        if joint:
            total += joint * math.log(joint / (float((x == a).mean()) * float((y == b).mean())))
    return total


def plainly(mask: np.ndarray, tokens: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """I(firing; label | token) and its null mean and sd, by every order of the labels of each id."""
    strata = [np.flatnonzero(tokens == t) for t in np.unique(tokens)]
    strata = [rows for rows in strata if len(rows) > 1]
    count = sum(map(len, strata))
    value = mean = variance = 0.0
    for rows in strata:
        share = len(rows) / count
        value += share * plain_information(mask[rows], labels[rows])
        null = [
            share * plain_information(mask[rows], np.array(order))
            for order in itertools.permutations(labels[rows].tolist())
        ]
        mean += float(np.mean(null))
        variance += float(np.var(null))
    return value, mean, variance**0.5


@pytest.fixture(scope="module")
def small() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Firings [row, 3], tokens [row] of which none occurs more than 6 times, experts [row, 2] of 4."""
    random = np.random.default_rng(0)
    tokens = random.permutation(np.repeat(np.arange(11), [6, 5, 4, 3, 2, 2, 2, 2, 2, 1, 1]))
    experts = chosen(np.ones((len(tokens), 4)), 2, random)
    return random.random((len(tokens), 3)) < [0.3, 0.5, 0.8], tokens, experts


def test_equals_every_permutation_on_a_small_case(small) -> None:
    mask, tokens, experts = small
    found = affinity(fired_where(mask), tokens, experts, 4)
    assert found.rows == 28
    for feature, expert in itertools.product(range(3), range(4)):
        used = (experts == expert).any(1)
        value, mean, sd = plainly(mask[:, feature], tokens, used)
        at = feature, expert
        assert found.value[at] == pytest.approx(value, abs=1e-12)
        assert found.null_mean[at] == pytest.approx(mean, abs=1e-12)
        assert found.null_sd[at] == pytest.approx(sd, abs=1e-12)
        assert found.corrected[at] == pytest.approx(value - mean, abs=1e-12)
        assert found.z[at] == pytest.approx((value - mean) / sd, rel=1e-9)


def test_the_whole_choice_equals_every_permutation_on_a_small_case(small) -> None:
    mask, tokens, experts = small
    found = whole_choice(fired_where(mask), tokens, experts[:, ::-1], shuffles=1000)
    sets = np.sort(experts, 1) @ [4, 1]
    for feature in range(3):
        value, mean, sd = plainly(mask[:, feature], tokens, sets)
        assert found.value[feature] == pytest.approx(value, abs=1e-12)
        assert found.null_mean[feature] == pytest.approx(mean, abs=5 * sd / 1000**0.5)
        assert found.null_sd[feature] == pytest.approx(sd, rel=0.15)


def test_one_of_two_experts_is_the_whole_choice() -> None:
    random = np.random.default_rng(1)
    tokens, experts = random.integers(0, 9, 400), random.integers(0, 2, (400, 1))
    fired = fired_where(random.random((400, 5)) < 0.3)
    each, whole = affinity(fired, tokens, experts, 2), whole_choice(fired, tokens, experts)
    np.testing.assert_allclose(each.value, whole.value[:, None].repeat(2, 1), atol=1e-12)


@pytest.mark.parametrize(
    ("n", "a", "b"),
    [(2, 1, 1), (7, 6, 3), (60, 13, 50), (400, 399, 20), (5000, 3, 40), (5000, 2100, 1300)],
)
def test_the_null_is_the_sum_over_the_hypergeometric(n: int, a: int, b: int) -> None:
    """By binomials in whole numbers, and, of the mean, as scikit-learn has it."""
    logs = information._Logs(n)
    mean, variance = (float(part[0]) for part in logs.null(*(np.array([x]) for x in (n, a, b))))
    support = range(max(0, a + b - n), min(a, b) + 1)
    chance = [math.comb(b, c) * math.comb(n - b, a - c) / math.comb(n, a) for c in support]
    cells = [(c, a - c, b - c, n - a - b + c) for c in support]
    margins = [a * b, a * (n - b), (n - a) * b, (n - a) * (n - b)]
    told = []
    for c, rest, other, none in cells:
        pairs = zip((c, rest, other, none), margins, strict=True)
        told.append(sum(x * math.log(n * x / m) for x, m in pairs if x))
    expected = math.fsum(p * x for p, x in zip(chance, told, strict=True))
    spread = math.fsum(p * (x - expected) ** 2 for p, x in zip(chance, told, strict=True))
    assert mean == pytest.approx(expected, rel=1e-9)
    assert variance == pytest.approx(spread, rel=1e-7, abs=1e-18)
    table = contingency_matrix(np.arange(n) < a, np.arange(n) < b, sparse=True).astype(np.int64)
    assert mean / n == pytest.approx(expected_mutual_information(table, n), rel=1e-7)


def test_tables_that_all_tell_as_much_have_no_spread() -> None:
    """One firing and half of the rows: whichever row it is, the information is the same."""
    tokens = np.repeat(np.arange(40), 10)
    mask = (np.arange(400) % 10 == 3)[:, None] & (np.arange(400)[:, None] < [30, 70, 130, 400])
    experts = (np.arange(400) % 10 < 5).astype(int)[:, None]
    found = affinity(fired_where(mask), tokens, experts, 2)
    for part in (found, whole_choice(fired_where(mask), tokens, experts)):
        assert (part.value > 1e-3).all()
        np.testing.assert_allclose(part.corrected, 0, atol=1e-14)
        assert (part.null_sd == 0).all()
        assert np.isnan(part.z).all()


def world(seed: int, rows: int = 12_000, features: int = 48, experts: int = 8, k: int = 2):
    """Tokens of a heavy tail, experts that follow them and chance; each feature is of an expert.

    A feature fires only where its expert was chosen, and more on some tokens than on others.
    """
    random = np.random.default_rng(seed)
    tokens = np.minimum(random.zipf(1.3, rows), 2000)
    by_token = random.dirichlet(np.full(experts, 0.7), 2001)
    choice = chosen(by_token[tokens] + 0.02, k, random)
    owner = np.arange(features) % experts
    used = (choice[:, :, None] == owner).any(1)  # [row, F]
    likes = random.beta(0.5, 2.0, (2001, features))[tokens]
    return tokens, choice, owner, used & (random.random(used.shape) < likes), likes, random


def test_features_of_a_planted_expert_name_it() -> None:
    tokens, choice, owner, mask, likes, random = world(0)
    found = affinity(fired_where(mask), tokens, choice, 8)
    assert (found.corrected.argmax(1) == owner).mean() >= 0.95
    at = np.arange(len(owner)), owner
    assert (found.z[at] > 3).mean() >= 0.95
    whole = whole_choice(fired_where(mask), tokens, choice)
    assert (whole.z > 3).mean() >= 0.95
    assert (whole.value >= found.value[at] - 1e-12).all()  # the set says whether it is in it
    # As many firings on the same tokens, of no expert: an expert is named by chance.
    alone = affinity(fired_where(random.random(mask.shape) < likes), tokens, choice, 8)
    assert (alone.corrected.argmax(1) == owner).mean() < 0.4


def shuffled(tokens: np.ndarray, choice: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The choices with the rows of each token id permuted."""
    moved = np.empty_like(choice)
    for token in np.unique(tokens):
        rows = np.flatnonzero(tokens == token)
        moved[rows] = choice[random.permutation(rows)]
    return moved


def test_experts_shuffled_within_token_id_tell_nothing() -> None:
    """Of one expert, fixed beforehand, for each feature: 400 values that are independent."""
    z, whole, plug_in = [], [], []
    for seed in range(4):
        tokens, choice, owner, mask, _, random = world(seed, rows=6000, features=100)
        moved = shuffled(tokens, choice, random)
        found = affinity(fired_where(mask), tokens, moved, 8)
        z.append(found.z[np.arange(100), owner])
        plug_in.append(found.value[np.arange(100), owner] / found.null_sd[np.arange(100), owner])
        whole.append(whole_choice(fired_where(mask), tokens, moved, seed=seed).z)
    for found in (np.concatenate(z), np.concatenate(whole)):
        assert abs(found.mean()) < 3 / 400**0.5
        assert 0.85 < found.std() < 1.2
        assert 0.02 < (np.abs(found) > 1.96).mean() < 0.09
    assert np.concatenate(plug_in).mean() > 5  # what the correction takes away


def test_functions_of_the_token_alone_tell_nothing() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(0, 60, 3000)
    fires, routes = random.random((60, 20)) < 0.5, random.permutation(np.arange(60) % 8)
    mask, experts = fires[tokens], np.stack([routes[tokens], (routes[tokens] + 1) % 8], 1)
    fired = fired_where(mask)
    found, whole = affinity(fired, tokens, experts, 8), whole_choice(fired, tokens, experts)
    for part in (found.value, found.null_mean, found.null_sd):
        assert (part == 0).all()
    np.testing.assert_allclose(whole.value, 0, atol=1e-12)
    assert (whole.null_sd == 0).all()
    # A firing that is a function of the token, against experts that are not, and the other way.
    loose = affinity(fired, tokens, chosen(np.ones((3000, 8)), 2, random), 8)
    assert (loose.value == 0).all()
    unconditional = affinity(fired, np.zeros(3000, int), experts, 8)
    assert float(unconditional.corrected.max(1).mean()) > 0.02
    assert float(np.nanmax(unconditional.z, axis=1).mean()) > 20


@pytest.mark.parametrize("cells", [1, 500, 4000])
def test_blocks_change_nothing(monkeypatch, cells: int) -> None:
    tokens, choice, _, mask, *_ = world(3, rows=1500, features=12)
    fired = fired_where(mask)
    whole, each = whole_choice(fired, tokens, choice), affinity(fired, tokens, choice, 8)
    monkeypatch.setattr(information, "CELLS", cells)
    again = affinity(fired, tokens, choice, 8)
    np.testing.assert_allclose(again.value, each.value, atol=1e-13)
    np.testing.assert_allclose(again.null_mean, each.null_mean, atol=1e-13)
    np.testing.assert_allclose(again.null_sd, each.null_sd, atol=1e-13)
    assert len(list(firing_blocks(fired, tokens, max(cells // 8, 1)))) > 1
    value = whole_choice(fired, tokens, choice).value
    np.testing.assert_allclose(value, whole.value, atol=1e-13)


def test_tokens_seen_once_say_nothing() -> None:
    tokens, choice, _, mask, *_ = world(4, rows=1000, features=10)
    found = affinity(fired_where(mask), tokens, choice, 8)
    size = len(tokens)
    more = np.concatenate([tokens, 10_000 + np.arange(50)])
    again = affinity(
        fired_where(np.concatenate([mask, mask[:50]])),
        more,
        np.concatenate([choice, choice[:50]]),
        8,
    )
    assert again.rows == found.rows < size
    np.testing.assert_array_equal(again.value, found.value)
    nothing = affinity(fired_where(mask[:50]), np.arange(50), choice[:50], 8)
    assert nothing.rows == 0
    assert (nothing.value == 0).all()
    assert np.isnan(whole_choice(fired_where(mask[:50]), np.arange(50), choice[:50]).z).all()
    none = fired_where(mask[:0]), tokens[:0], choice[:0]
    assert affinity(*none, 8).rows == whole_choice(*none).rows == 0


def test_arrays_that_do_not_fit_are_refused() -> None:
    fired, tokens = fired_where(np.ones((4, 2), bool)), np.zeros(4, int)
    with pytest.raises(UserError, match="firings of 4 rows, tokens of 3 and experts of 4"):
        affinity(fired, tokens[:3], np.zeros((4, 1), int), 2)
    with pytest.raises(UserError, match="firings of 4 rows, tokens of 4 and experts of 5"):
        whole_choice(fired, tokens, np.zeros((5, 1), int))
    for number in (-1, 2):
        with pytest.raises(UserError, match=r"where there are 2$"):
            affinity(fired, tokens, np.full((4, 1), number), 2)


# --- of a dictionary ----------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path, token_shard):
    return partial(routed_rows, tmp_path, token_shard)


def test_the_table_is_of_the_rows_and_routing_that_are_stored(stored) -> None:
    _, _, data = stored(("resid_post", 1), beside=True)
    dictionary = made_dictionary(data, 40)
    parts = [torch.cat(part) for part in zip(*data.in_order(100), strict=True)]
    mask = fires(dictionary, parts).numpy()
    found = list(firings(dictionary, data, 64, CPU))
    assert {len(part.sizes) for part in found[:-1]} == {64}
    np.testing.assert_array_equal(sum(part.fired() for part in found), mask.sum(0))
    features = np.concatenate([part.features for part in found])
    np.testing.assert_array_equal(features, np.nonzero(mask)[1])
    assert layers_of(data, 1) == [0, 1]
    assert layers_of(data, 0) == []
    table = feature_affinity(dictionary, data, 1, [0, 1], 64, CPU)
    assert table["feature"].to_list() == [*range(40)] * 2
    assert table["layer"].to_list() == [0] * 40 + [1] * 40
    tokens, odd = data.column("token"), data.column("half") == 1
    for layer in (0, 1):
        experts = np.concatenate([data.column_of(c, f"experts.{layer}", 1) for c in data.chunks])
        mine = table.filter(pl.col("layer") == layer)
        halves = [
            affinity(fired_where(mask[half]), tokens[half], experts[half], 8)
            for half in (~odd, odd)
        ]
        best = np.where(halves[0].null_sd > 0, halves[0].corrected, -9).argmax(1)
        assert mine["expert"].to_list() == best.tolist()
        at = np.arange(40), best
        for name in ("corrected", "z", "null_mean", "null_sd"):
            np.testing.assert_allclose(mine[name], getattr(halves[1], name)[at], atol=1e-12)
        np.testing.assert_allclose(mine["information"], halves[1].value[at], atol=1e-12)
        whole = whole_choice(fired_where(mask[odd]), tokens[odd], experts[odd])
        np.testing.assert_allclose(mine["whole_z"], whole.z, atol=1e-9)
        np.testing.assert_array_equal(mine["fired"], mask[odd].sum(0))


@pytest.mark.parametrize(("cells", "read"), [(1 << 21, 1 << 16), (300, 50), (1, 7)])
def test_rows_on_disk_tell_what_rows_in_memory_do_in_parts_of_any_size(
    stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: int, read: int
) -> None:
    _, _, data = stored(("resid_post", 1), beside=True)
    dictionary = made_dictionary(data, 40)
    parts = [torch.cat(part) for part in zip(*data.in_order(100), strict=True)]
    mask = fires(dictionary, parts).numpy()
    tokens, half_of = data.column("token", 1), data.column("half")
    for module, name, value in (
        (information, "CELLS", cells),
        (strata, "CELLS", cells),
        (strata, "READ", read),
    ):
        monkeypatch.setattr(module, name, value)
    scratch = tmp_path / "scratch"
    halves, seen = strata.strata_of_halves(dictionary, data, 1, [0, 1], 64, CPU, scratch)
    assert list(scratch.iterdir()) == []
    for number, half in enumerate(halves):
        rows = np.flatnonzero(half_of == number)
        again = [t for t in np.unique(tokens[rows]) if (tokens[rows] == t).sum() > 1]
        assert half.count == 1 if cells > 300 else half.count > 1
        assert half.count <= len(again)
        for layer in (0, 1):
            experts = data.column(f"experts.{layer}", 1)
            assert seen[layer] == experts.max() + 1
            told = list(half.of(layer))
            ids = [set(part.tokens.tolist()) for part in told]
            assert sum(map(len, ids)) == len(set.union(*ids)) == len(again)
            for part in told:
                own = rows[np.isin(tokens[rows], part.tokens)]
                assert part.tokens.tolist() == tokens[own].tolist()
                assert part.experts.tolist() == experts[own].tolist()
                assert part.fired.sizes.tolist() == mask[own].sum(1).tolist()
                assert part.fired.features.tolist() == np.nonzero(mask[own])[1].tolist()
            plain = Part(fired_where(mask[rows]), tokens[rows], experts[rows])
            for ours, theirs in (
                (
                    information.affinity(told, 40, seen[layer]),
                    information.affinity([plain], 40, seen[layer]),
                ),
                (information.whole_choice(told, 40), information.whole_choice([plain], 40)),
            ):
                assert ours.rows == theirs.rows
                for name in ("value", "null_mean", "null_sd"):
                    np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert half.fired.tolist() == mask[rows].sum(0).tolist()


def test_a_feature_that_never_fires_has_no_expert(stored) -> None:
    _, _, data = stored(("resid_post", 1))
    dictionary = made_dictionary(data, 20)
    dictionary.threshold[7] = math.inf
    row = feature_affinity(dictionary, data, 0, [1], 64, CPU).row(7, named=True)
    assert row["fired"] == 0
    assert all(row[name] is None for name in ("expert", "information", "corrected", "z", "whole_z"))
    assert row["whole_information"] == 0


def test_routing_is_taken_up_to_the_hook_whatever_more_is_stored(tmp_path, token_shard) -> None:
    shard, points = read_token_shard(token_shard(sequences=4)), ["resid_post.0", "resid_mid.2"]
    named = [(hook, int(layer)) for hook, layer in (point.split(".") for point in points)]
    path = cached(tiny("qwen3-moe"), shard, tmp_path / "rows.zarr.zip", named).path
    data = AlignedRows([[path], [path]], points)
    assert data.sources[0][0].routed() == [0, 1]
    assert layers_of(data, 0) == [0]
    assert layers_of(data, 1) == [0, 1]
    path = cached(
        tiny("qwen3-moe"), shard, tmp_path / "more.zarr.zip", [("resid_mid", 1), ("mlp_out", 1)]
    ).path
    data = AlignedRows([[path], [path]], ["resid_mid.1", "mlp_out.1"])
    assert data.sources[0][0].routed() == [0, 1]
    assert layers_of(data, 0) == [0]  # its own layer has not chosen yet
    assert layers_of(data, 1) == [0, 1]


def test_layers_that_are_not_stored_or_lie_behind_the_hook_are_refused(stored) -> None:
    _, _, data = stored(("resid_mid", 1), beside=True)
    dictionary = made_dictionary(data, 10)
    assert layers_of(data, 1) == [0]
    for source, layer, known in ((1, 1, "0"), (0, 0, "none")):
        with pytest.raises(UserError, match=rf"no routing of layer {layer} .* \(layers: {known}\)"):
            feature_affinity(dictionary, data, source, [layer], 64, CPU)


def test_experts_are_named_by_one_half_of_the_text_and_measured_on_the_other() -> None:
    """So that the best of many is no better by chance: the best over the same rows would be."""
    z, same = [], []
    for seed in range(4):
        tokens, choice, _, mask, _, random = world(seed, rows=6000, features=100)
        moved = shuffled(tokens, choice, random)
        half = random.random(len(tokens)) < 0.5
        first, second = (
            affinity(fired_where(mask[rows]), tokens[rows], moved[rows], 8)
            for rows in (half, ~half)
        )
        z.append(second.z[np.arange(100), _best(first)])
        same.append(second.z[np.arange(100), _best(second)])
    assert abs(np.concatenate(z).mean()) < 3 / 400**0.5
    assert np.concatenate(same).mean() > 0.5


def test_information_has_no_z_without_a_null() -> None:
    found = Information(np.array([0.3, 0.2]), np.array([0.1, 0.2]), np.array([0.1, 0.0]), 10)
    np.testing.assert_allclose(found.z, [2.0, np.nan])


def test_a_model_without_experts_has_a_table_of_the_same_columns_and_no_rows(stored) -> None:
    _, _, data = stored(("resid_post", 1), beside=True)
    dictionary = made_dictionary(data, 40)
    empty = feature_affinity(dictionary, data, 0, [], 64, CPU)
    whole = feature_affinity(dictionary, data, 1, [0], 64, CPU)
    assert len(empty) == 0
    assert empty.schema == whole.schema
