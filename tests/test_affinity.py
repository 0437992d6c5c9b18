"""Experts and features: exact nulls, planted experts, and what experts wrote, computed a second way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information
from torch.nn import functional as F
from transformers import PreTrainedModel

from conftest import RECIPE, cached, dense_tables
from families import tiny
from moediff import affinity as module
from moediff.affinity import (
    Firings,
    Information,
    Rerun,
    affinity,
    feature_affinity,
    firings,
    layers_of,
    masked_firing,
    masked_gates,
    whole_choice,
    written,
)
from moediff.dictionary import Dictionary, Shape
from moediff.errors import UserError
from moediff.hooks import Capture, Point, blocks
from moediff.models import packed_inputs
from moediff.store import AlignedRows
from moediff.tokens import TokenShard, read_token_shard, segment_starts

CPU = torch.device("cpu")
FIRST = 100  # number of the first sequence of the tokens here: another shard's end before it


# --- information --------------------------------------------------------------------------------


def fired_where(mask: np.ndarray) -> Firings:
    """Firings of a mask [row, F]."""
    starts = np.concatenate([[0], np.cumsum(mask.sum(1))])
    return Firings(np.nonzero(mask)[1].astype(np.int32), starts, mask.shape[1])


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
    logs = module._Logs(n)
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
    monkeypatch.setattr(module, "CELLS", cells)
    again = affinity(fired, tokens, choice, 8)
    np.testing.assert_allclose(again.value, each.value, atol=1e-13)
    np.testing.assert_allclose(again.null_mean, each.null_mean, atol=1e-13)
    np.testing.assert_allclose(again.null_sd, each.null_sd, atol=1e-13)
    assert len(list(module._blocks(fired, tokens, max(cells // 8, 1)))) > 1
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


def made_dictionary(data: AlignedRows, features: int, share: float = 0.15) -> Dictionary:
    """A random dictionary whose features fire on about a share of the rows, each of its own."""
    dictionary = Dictionary(Shape.of(RECIPE | {"features": features}, data.widths), seed=1)
    dictionary.requires_grad_(False)
    moments = data.moments()
    dictionary.mean.copy_(torch.cat([torch.from_numpy(mean) for mean, _ in moments]))
    dictionary.scale.copy_(torch.tensor([variance**0.5 for _, variance in moments]))
    for block in dictionary.blocks.values():
        block.encoder_bias.copy_(torch.linspace(0.02, 0.1, len(block.encoder_bias)))
    rows = torch.cat([dictionary.standardise(part) for part in data.in_order(4096)])
    scores, _ = dictionary.score(rows)
    dictionary.threshold.copy_(passed_by(scores.all, share).clamp_min(1e-3))
    return dictionary


def passed_by(scores: torch.Tensor, share: float) -> torch.Tensor:
    """Thresholds [F] that a share of scores [row, F] pass, half way between two of them."""
    ranked = scores.sort(dim=0, descending=True).values
    last = int(share * len(scores))
    return ranked[last - 1 : last + 1].mean(0)


@pytest.fixture
def stored(tmp_path, token_shard):
    """A model, its tokens and its rows at one point, a dense model's beside them where asked."""

    def write(
        point: tuple[str, int],
        family: str = "qwen3-moe",
        beside: bool = False,
        change: Callable[[PreTrainedModel], object] = lambda model: None,
    ) -> tuple[PreTrainedModel, TokenShard, AlignedRows]:
        shard = replace(read_token_shard(token_shard(sequences=24)), first=FIRST)
        model = tiny(family)
        change(model)
        own = cached(model, shard, tmp_path / "own.zarr.zip", [point], "float32")
        sources = [[own.path]]
        if beside:
            other = cached(
                tiny("llama"), shard, tmp_path / "other.zarr.zip", [("resid_post", 1)], "float32"
            )
            sources.insert(0, [other.path])
        return model, shard, AlignedRows(sources)

    return write


def pre_activations(dictionary: Dictionary, sources: list[torch.Tensor]) -> torch.Tensor:
    """[row, F] in float64, from dense tables."""
    _, encoder, bias = dense_tables(dictionary)
    return dictionary.double().standardise(sources) @ encoder.double().T + bias.double()


def fires(dictionary: Dictionary, sources: list[torch.Tensor]) -> torch.Tensor:
    """Whether each feature fires [row, F]."""
    weight = dictionary.norms().double().sum(1)
    scores = pre_activations(dictionary, sources) * weight
    return (scores >= dictionary.threshold) & (scores > 0)


def test_the_table_is_of_the_rows_and_routing_that_are_stored(stored) -> None:
    _, _, data = stored(("resid_post", 1), beside=True)
    dictionary = made_dictionary(data, 40)
    parts = [torch.cat(part) for part in zip(*data.in_order(100), strict=True)]
    mask = fires(dictionary, parts).numpy()
    found = firings(dictionary, data, 64, CPU)
    np.testing.assert_array_equal(found.fired(), mask.sum(0))
    np.testing.assert_array_equal(found.features, np.nonzero(mask)[1])
    assert layers_of(data, 1) == [0, 1]
    assert layers_of(data, 0) == []
    table = feature_affinity(dictionary, data, 1, [0, 1], 64, CPU)
    assert table["feature"].to_list() == [*range(40)] * 2
    assert table["layer"].to_list() == [0] * 40 + [1] * 40
    tokens, odd = data.column("token"), data.column("document") % 2 == 1
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


def test_experts_are_named_by_one_half_of_the_documents_and_measured_on_the_other() -> None:
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
        z.append(second.z[np.arange(100), module._best(first)])
        same.append(second.z[np.arange(100), module._best(second)])
    assert abs(np.concatenate(z).mean()) < 3 / 400**0.5
    assert np.concatenate(same).mean() > 0.5


# --- what each expert wrote ---------------------------------------------------------------------


def expert_output(experts: torch.nn.Module, number: int, rows: torch.Tensor) -> torch.Tensor:
    """What one expert gives for rows [row, d], from its weights."""
    gate, up = (rows @ experts.gate_up_proj[number].T).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ experts.down_proj[number].T


def fed(model, layer: int, inputs: dict) -> tuple[torch.Tensor, ...]:
    """Of a pass: what enters a feed-forward, its gates and experts, and what leaves it, by position."""
    seen = []
    feed_forward = blocks(model)[layer].mlp
    handles = [
        feed_forward.register_forward_hook(lambda _, given, out: seen.extend([given[0], out])),
        feed_forward.gate.register_forward_hook(lambda _, __, out: seen.extend(out[1:])),
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    gates, experts, entered, left = seen
    left = left[0] if isinstance(left, tuple) else left
    return entered.flatten(0, 1), gates, experts, left.flatten(0, 1)


@pytest.mark.parametrize(
    ("family", "beside"),
    [("qwen3-moe", True), ("olmoe", False), ("mixtral", False), ("qwen2-moe", True)],
)
def test_shares_are_what_each_expert_computes_by_itself(stored, family: str, beside: bool) -> None:
    model, shard, data = stored(("mlp_out", 1), family, beside)
    dictionary, source = made_dictionary(data, 30), int(beside)
    table = written(dictionary, data, source, Rerun(model, shard, False, 24, 5), CPU)
    names = [f"expert_{number}" for number in range(8)]
    rest = ["shared", "others", "constant"]
    assert table.columns == ["feature", "fired", "pre_activation", *names, *rest]
    total = table.select(pl.sum_horizontal(*names, *rest)).to_series()
    assert table["fired"].min() > 10
    np.testing.assert_allclose(total, 1, atol=1e-9)
    # Again from the model's weights and the dictionary's dense tables.
    starts = segment_starts(shard.document)
    entered, gates, experts, left = fed(model, 1, packed_inputs(model, shard.tokens, starts))
    place = (data.column("sequence") - FIRST) * 32 + data.column("position")
    entered, gates, experts, left = (part[place] for part in (entered, gates, experts, left))
    given = [torch.cat(part) for part in zip(*data.in_order(100), strict=True)]
    given[source] = left
    mask = fires(dictionary, given).double()
    columns, scale = dictionary.shape.columns(source), dictionary.scale[source]
    _, tables, bias = dense_tables(dictionary)
    encoder = tables[:, columns].double()
    pre = (pre_activations(dictionary, given) * mask).sum(0)  # [F]
    np.testing.assert_array_equal(table["fired"], mask.sum(0))
    np.testing.assert_allclose(table["pre_activation"], pre / mask.sum(0), rtol=1e-5)
    remaining = left.clone().double()
    for number in range(8):
        gate = (gates * (experts == number)).sum(1)
        part = (
            gate[:, None] * expert_output(blocks(model)[1].mlp.experts, number, entered)
        ).double()
        remaining -= part
        expected = ((part @ encoder.T / scale) * mask).sum(0) / pre
        np.testing.assert_allclose(table[f"expert_{number}"], expected, atol=1e-5)
        assert expected.abs().max() > 0.01
    shared = ((remaining @ encoder.T / scale) * mask).sum(0) / pre
    np.testing.assert_allclose(table["shared"], shared, atol=1e-4)
    assert (shared.abs().max() > 0.05) == (family == "qwen2-moe")
    mean = bias.double() - encoder @ dictionary.mean[columns] / scale
    np.testing.assert_allclose(table["constant"], mask.sum(0) * mean / pre, atol=1e-4)
    assert (np.abs(table["others"].to_numpy()).max() > 0.05) == beside


def test_shares_do_not_depend_on_the_passes(stored) -> None:
    model, shard, data = stored(("mlp_out", 1))
    dictionary = made_dictionary(data, 12)
    one = written(dictionary, data, 0, Rerun(model, shard, False, 9, 9), CPU)
    two = written(dictionary, data, 0, Rerun(model, shard, False, 9, 2), CPU)
    assert one["fired"].sum() == int(
        fires(dictionary, [torch.cat([p for (p,) in data.in_order(99)])])[
            data.column("sequence") < FIRST + 9
        ].sum()
    )
    for name in one.columns:
        np.testing.assert_allclose(one[name], two[name], atol=1e-5)


def test_what_does_not_add_up_is_refused(stored) -> None:
    model, shard, data = stored(("mlp_out", 1))
    dictionary, again = made_dictionary(data, 10), Rerun(model, shard, False, 8, 8)
    plain = blocks(model)[1].mlp.forward
    blocks(model)[1].mlp.forward = lambda hidden: 0.8 * plain(hidden)
    with pytest.raises(UserError, match="does not give the rows that are stored"):
        written(dictionary, data, 0, again, CPU)
    blocks(model)[1].mlp.forward = plain
    experts = blocks(model)[1].mlp.experts
    apart = experts.forward

    def bent(hidden: torch.Tensor, chosen: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        found = apart(hidden, chosen, gates)
        return found if bool((gates > 0).all()) else 0.5 * found

    experts.forward = bent
    with pytest.raises(UserError, match="does not sum to what the layer gives"):
        written(dictionary, data, 0, again, CPU)


def test_another_model_hook_or_text_is_refused(stored, token_shard) -> None:
    model, shard, data = stored(("resid_post", 1), beside=True)
    dictionary, experts = made_dictionary(data, 10), np.zeros(10, int)
    again = Rerun(model, shard, False, 4, 4)
    with pytest.raises(UserError, match=r"resid_post.1: what experts write adds up at mlp_out"):
        written(dictionary, data, 1, again, CPU)
    other = Rerun(tiny("qwen3-moe", seed=1), shard, False, 4, 4)
    with pytest.raises(UserError, match="does not give the rows that are stored"):
        masked_firing(dictionary, data, 1, other, 1, experts, CPU)
    elsewhere = read_token_shard(token_shard("other.h5", seed=3))
    with pytest.raises(UserError, match="none of its shards was made from these tokens"):
        masked_firing(dictionary, data, 1, Rerun(model, elsewhere, False, 4, 4), 1, experts, CPU)
    with pytest.raises(UserError, match=r"layer 2 has no experts below resid_post.1"):
        masked_firing(dictionary, data, 1, again, 2, experts, CPU)
    with pytest.raises(UserError, match="experts of 9 features, where there are 10"):
        masked_firing(dictionary, data, 1, again, 1, experts[:9], CPU)


# --- masking ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3-moe", "mixtral", "deepseek-v3", "gpt-oss"])
def test_a_masked_gate_is_0_and_the_others_are_as_they_were(stored, family: str) -> None:
    """What leaves the model with gates masked is what its experts give when called so."""
    model = tiny(family)
    tokens = np.random.default_rng(0).integers(1, 60, (2, 9))
    inputs = packed_inputs(model, tokens, np.arange(9) == np.zeros((2, 1)))
    with Capture(model, [Point("resid_post", 2)], routing=True) as capture:
        plain = capture(**inputs)
        routing = plain.routing[1]
        off = torch.zeros(18, routing.experts.shape[-1], dtype=torch.bool)
        off[::2, 0] = True
        called = []
        handle = blocks(model)[1].mlp.experts.register_forward_pre_hook(
            lambda _, given: called.append(given[1:])
        )
        with masked_gates(model, 1, off):
            masked = capture(**inputs)
        handle.remove()
        again = capture(**inputs)
    weights = next(part for part in called[0] if part.is_floating_point())
    expected = routing.gates.flatten(0, 1).masked_fill(off, 0)
    torch.testing.assert_close(weights.reshape(expected.shape), expected, rtol=0, atol=0)
    point = Point("resid_post", 2)
    assert torch.equal(again.points[point], plain.points[point])
    changed = (masked.points[point] - plain.points[point]).flatten(0, 1).abs().amax(1) > 1e-4
    assert changed[::2].all()


def test_a_layer_whose_gates_cannot_be_masked_is_refused() -> None:
    off = torch.zeros(4, 2, dtype=torch.bool)
    inputs = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
    with pytest.raises(UserError, match="layer 0 has no experts"):
        with masked_gates(tiny("llama"), 0, off):
            pass
    model = tiny("llama4")
    with pytest.raises(UserError, match="does not return gates of the experts"):
        with masked_gates(model, 1, off):
            model(**inputs)
    model(**inputs)  # the hook is gone


def by_hand(model, layer: int, mask, inputs: dict) -> torch.Tensor:
    """The stream behind block 1 with gates replaced where `mask(experts)`: [position, d]."""
    experts = blocks(model)[layer].mlp.experts
    plain = experts.forward
    experts.forward = lambda hidden, chosen, gates: plain(
        hidden, chosen, torch.where(mask(chosen), 0.0, gates)
    )
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    experts.forward = plain
    return states[2].flatten(0, 1)


@pytest.mark.parametrize("layer", [0, 1])
def test_firings_lost_are_those_of_a_model_without_the_expert(stored, layer: int) -> None:
    """Each token uses two experts, so that the other one is known."""
    model, shard, data = stored(("resid_post", 1), beside=True)
    dictionary = made_dictionary(data, 24)
    wanted = np.arange(24) % 9 - 1  # of experts 0 to 7, or of none
    again = Rerun(model, shard, False, 6, 6)
    table = masked_firing(dictionary, data, 1, again, layer, wanted, CPU)
    assert table["feature"].to_list() == np.flatnonzero(wanted >= 0).tolist()
    part = data.column("sequence") < FIRST + 6
    place = ((data.column("sequence") - FIRST) * 32 + data.column("position"))[part]
    given = [torch.cat(rows)[part] for rows in zip(*data.in_order(100), strict=True)]
    starts = segment_starts(shard.document)[:6]
    inputs = packed_inputs(model, shard.tokens[:6], starts)
    _, gates, experts, _ = (rows[place] for rows in fed(model, layer, inputs))

    def firing(mask) -> torch.Tensor:
        rows = by_hand(model, layer, mask, inputs)[place]
        return fires(dictionary, [given[0], rows])

    whole = firing(lambda chosen: chosen < 0)
    for number in range(8):
        one = firing(lambda chosen, e=number: chosen == e)
        other = firing(lambda chosen, e=number: (chosen != e) & (chosen == e).any(1, True))
        used = (experts == number).any(1)
        gate, rest = (
            (gates * ((experts == number) == own)).sum(1).double() for own in (True, False)
        )
        for row in table.filter(pl.col("expert") == number).iter_rows(named=True):
            on = whole[:, row["feature"]] & used
            assert row["fired"] == int(on.sum())
            if row["fired"]:
                for name, left in (("lost", one), ("lost_other", other)):
                    gone = float((~left[on, row["feature"]]).double().mean())
                    assert row[name] == pytest.approx(gone, abs=1e-12)
                assert row["gate"] == pytest.approx(float(gate[on].mean()), rel=1e-5)
                assert row["gate_other"] == pytest.approx(float(rest[on].mean()), rel=1e-5)
            else:
                assert row["lost"] is None
    assert table["fired"].sum() > 50
    assert 0 < table["lost"].mean() < 1
    assert 0 < table["lost_other"].mean() < 1


def one_direction_each(model: PreTrainedModel) -> None:
    """Let expert e of block 1 write along axis e alone, more where it writes at all."""
    down = blocks(model)[1].mlp.experts.down_proj  # [E, d, hidden]
    for number in range(8):
        along = down[number, 0].clone()
        down[number] = 0
        down[number, number] = 3 * along


def test_a_feature_of_one_experts_direction_is_written_by_it_and_goes_with_it(stored) -> None:
    """Planted: feature e reads axis e, which expert e alone writes, at either end."""
    model, shard, data = stored(("mlp_out", 1), change=one_direction_each)
    dictionary = made_dictionary(data, 16)
    free = dictionary.blocks["free"]
    signs = torch.tensor([1.0, -1.0]).repeat_interleave(8)
    free.encoder.copy_(signs[:, None] * torch.eye(32)[:8].repeat(2, 1))
    free.encoder_bias.copy_(free.encoder @ dictionary.mean / dictionary.scale)  # pre is 0 at 0
    (rows,) = (torch.cat(part) for part in zip(*data.in_order(999), strict=True))
    scores, _ = dictionary.score(dictionary.standardise([rows]))
    dictionary.threshold.copy_(passed_by(scores.all, 0.03))
    again, planted = Rerun(model, shard, False, 24, 8), np.arange(16) % 8
    lost = masked_firing(dictionary, data, 0, again, 1, planted, CPU)
    wrote = written(dictionary, data, 0, again, CPU)
    seen = (lost["fired"] > 0).to_numpy()
    assert seen.sum() >= 14
    assert lost["fired"].to_list() == wrote["fired"].to_list()  # never without it
    assert (lost["lost"].to_numpy()[seen] == 1).all()
    assert (lost["lost_other"].to_numpy()[seen] == 0).all()
    shares = wrote.select([f"expert_{number}" for number in range(8)]).to_numpy()
    np.testing.assert_allclose(shares[seen], np.eye(8)[planted][seen], atol=1e-5)
    np.testing.assert_allclose(wrote["constant"].to_numpy()[seen], 0, atol=1e-6)


def test_the_other_expert_is_any_other_of_the_same_token() -> None:
    experts = torch.stack([torch.randperm(6)[:3] for _ in range(3000)])
    own = experts == 2
    other = module._another(own, torch.Generator().manual_seed(0))
    assert not (other & own).any()
    assert torch.equal(other.sum(1), own.any(1).long())
    shares = torch.bincount(experts[other], minlength=6) / own.any(1).sum()
    np.testing.assert_allclose(shares[[0, 1, 3, 4, 5]], 0.2, atol=0.04)
    slots = other[own[:, 0]].sum(0) / own[:, 0].sum()
    np.testing.assert_allclose(slots, [0, 0.5, 0.5], atol=0.06)
    again = module._another(own, torch.Generator().manual_seed(0))
    assert torch.equal(other, again)


def test_where_each_token_uses_one_expert_none_stands_in(stored) -> None:
    def one(model: PreTrainedModel) -> None:
        for block in blocks(model):
            block.mlp.gate.top_k = 1

    model, shard, data = stored(("resid_post", 1), change=one)
    dictionary = made_dictionary(data, 4)
    again = Rerun(model, shard, False, 4, 4)
    with pytest.raises(UserError, match="uses one expert only"):
        masked_firing(dictionary, data, 0, again, 1, np.zeros(4, int), CPU)


def test_information_has_no_z_without_a_null() -> None:
    found = Information(np.array([0.3, 0.2]), np.array([0.1, 0.2]), np.array([0.1, 0.0]), 10)
    np.testing.assert_allclose(found.z, [2.0, np.nan])
