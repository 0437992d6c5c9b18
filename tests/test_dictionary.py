"""Blocks, ties, selection and files of a dictionary, and what fitting must find in known worlds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from conftest import RECIPE, dense_tables
from moediff import artifact, sparse
from moediff.dictionary import Dictionary, Shape
from moediff.errors import DamagedError
from moediff.evaluation import Measured, measure, principal_components
from moediff.features import (
    class_counts,
    classify,
    conventions,
    feature_table,
    norm_ratio,
    relative_norm,
    with_scaling,
)
from moediff.fitter import Fitter
from moediff.fitting import exact_threshold, fit
from moediff.planted import owned, planted

CPU = torch.device("cpu")


def random_rows(count: int, width: int, seed: int = 0, rank: int = 24) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    codes = torch.randn(count, rank, generator=random).relu()
    return codes @ torch.randn(rank, width, generator=random) / rank


@pytest.mark.parametrize(
    ("tie", "tied", "exclusive"), [("norm", 16, 8), ("direction", 16, 8), ("norm", 0, 0)]
)
def test_blocks_keep_their_promise_through_training(tie: str, tied: int, exclusive: int) -> None:
    recipe = RECIPE | {"features": 64, "tie": tie, "tied": tied, "exclusive": exclusive, "k": 6}
    dictionary = Dictionary(Shape.of(recipe, [10, 10]))
    fitter = Fitter(dictionary, recipe)
    for step in range(20):
        fitter.update(random_rows(128, 20, seed=step))
    a, b = dictionary.decoders()
    norms = dictionary.norms()
    torch.testing.assert_close(norms[:tied, 0], norms[:tied, 1])
    if tie == "direction" and tied:
        torch.testing.assert_close(a[:tied], b[:tied])
    common = dictionary.shape.common
    assert (b[common : common + exclusive] == 0).all()
    assert (a[common + exclusive :] == 0).all()
    assert (a[common : common + exclusive] != 0).any(1).all()
    blocks = Counter(dictionary.shape.blocks())
    assert sum(blocks.values()) == 64
    assert blocks["tied"] == tied
    assert blocks["exclusive-0"] == blocks["exclusive-1"] == exclusive


@pytest.mark.parametrize("screen", [False, True])
@pytest.mark.parametrize("tied", [0, 8])
def test_one_training_step_equals_the_dense_form(screen: bool, tied: int) -> None:
    recipe = RECIPE | {"features": 40, "tied": tied, "exclusive": 4, "k": 5, "clip": 1e9,
                       "screen": screen}  # fmt: skip
    rows = random_rows(64, 22)
    sparse, dense = (Dictionary(Shape.of(recipe, [12, 10]), seed=3) for _ in range(2))
    fitter = Fitter(sparse, recipe)
    before = {name: value.clone() for name, value in sparse.named_parameters()}

    decoder, encoder, bias = dense_tables(dense)
    activation = (rows @ encoder.T + bias).relu()
    scores = activation * dense.norms().sum(1)
    edge = scores.flatten().topk(5 * 64).values.min()
    guess = (activation * (scores >= edge)) @ decoder + dense.decoder_bias
    ((rows - guess).square().sum() / (64 * 2)).backward()

    found = {}
    step = fitter.optimizer.step
    fitter.optimizer.step = lambda: found.update(
        {name: value.grad.clone() for name, value in sparse.named_parameters()}
    )
    measured = fitter.update(rows)
    fitter.optimizer.step = step
    assert measured["error"] == pytest.approx(
        float((rows - guess).detach().square().sum()), rel=1e-5
    )
    for name, value in dense.named_parameters():
        torch.testing.assert_close(found[name], value.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(before[name], value.detach())


@pytest.mark.parametrize("cost", [0, 20])
def test_aux_reaches_the_encoders_of_dead_features_and_nothing_else(monkeypatch, cost) -> None:
    monkeypatch.setattr(sparse, "ENTRY_COST", cost)
    recipe = RECIPE | {"features": 32, "k": 2, "aux_weight": 1.0}
    dictionary = Dictionary(Shape.of(recipe, [10, 6]))
    fitter = Fitter(dictionary, recipe)
    rows, residual = random_rows(64, 16), random_rows(64, 16, seed=1)
    dead = torch.tensor([3, 7, 20])
    fitter._auxiliary(rows, residual, dead, dictionary.norms().sum(1)).backward()
    block = dictionary.blocks["free"]
    for table in (block.encoder, block.encoder_bias, block.weight):
        reached = table.grad.view(32, -1).abs().sum(1) > 0
        assert set(reached.nonzero().squeeze(1).tolist()) <= set(dead.tolist())
        assert reached.sum() >= 2
    assert dictionary.decoder_bias.grad is None


@pytest.mark.parametrize("aux_k", [1, 3, 50])
def test_aux_by_entries_equals_aux_by_products(monkeypatch, aux_k: int) -> None:
    recipe = RECIPE | {"features": 60, "tied": 12, "exclusive": 8, "aux_k": aux_k}
    rows, residual = random_rows(64, 22), random_rows(64, 22, seed=1)
    dead = torch.tensor([0, 2, 5, 11, 12, 30, 31, 43, 44, 50, 52, 53, 59])
    found = []
    for cost in (0, 1000):
        monkeypatch.setattr(sparse, "ENTRY_COST", cost)
        dictionary = Dictionary(Shape.of(recipe, [12, 10]), seed=1)
        fitter = Fitter(dictionary, recipe)
        loss = fitter._auxiliary(rows, residual, dead, dictionary.norms().sum(1))
        loss.backward()
        gradients = {n: p.grad for n, p in dictionary.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_dead_features_come_back() -> None:
    """Biases of -100, where no gradient reaches: AuxK brings the features back, its absence does not."""
    recipe = RECIPE | {"features": 100, "k": 8, "rows": 400 * 512, "dead_after": 0.05, "lr": 5e-3}
    shares = {}
    for weight in (0.0, 0.03125):
        dictionary = Dictionary(Shape.of(recipe, [24]))
        with torch.no_grad():
            dictionary.blocks["free"].encoder_bias[:30] = -100.0
        fitter = Fitter(dictionary, recipe | {"aux_weight": weight})
        for step in range(400):
            fitter.update(random_rows(512, 24, seed=step, rank=48))
        shares[weight] = float((fitter.silent > fitter.dead_after).double().mean())
    assert shares[0.0] >= 0.3
    assert shares[0.03125] < 0.05


def test_save_and_load_give_the_same_codes(tmp_path: Path) -> None:
    recipe = RECIPE | {"features": 48, "tied": 8, "exclusive": 4}
    dictionary = Dictionary(Shape.of(recipe, [12, 10]), seed=5)
    dictionary.threshold.fill_(0.2)
    dictionary.mean.normal_(generator=torch.Generator().manual_seed(0))
    dictionary.save(tmp_path / "one.safetensors", {"format": artifact.FORMAT, "recipe": recipe})
    dictionary.save(tmp_path / "two.safetensors", {"recipe": recipe, "format": artifact.FORMAT})
    loaded, metadata = Dictionary.load(tmp_path / "one.safetensors")
    assert metadata["recipe"] == recipe
    rows = random_rows(32, 22)
    torch.testing.assert_close(loaded.reconstruct(rows), dictionary.reconstruct(rows))
    one, two = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    (tmp_path / "one.safetensors").write_bytes(one[: len(one) // 2])
    with pytest.raises(DamagedError, match=r"one\.safetensors"):
        Dictionary.load(tmp_path / "one.safetensors")


def test_threshold_fires_k_features_on_the_held_out_rows(aligned_rows) -> None:
    data = aligned_rows([random_rows(5000, 20).numpy()])
    dictionary = Dictionary(Shape.of(RECIPE | {"features": 96}, [20]))
    held_out = data.select(lambda chunk: data.column_of(chunk, "document") % 5 < 3)
    found = [exact_threshold(dictionary, data, held_out, 7, batch) for batch in (64, 1000)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    dictionary.threshold.fill_(found[0])
    rows = torch.cat([part[0] for part in data.selected(held_out, 500)])
    (fired, _), _ = dictionary.encode(rows)
    assert len(fired) == pytest.approx(7 * 3000, abs=3)


def test_relative_norm_and_classes_by_hand() -> None:
    norms = np.array([[1, 0], [0, 1], [1, 1], [1, 0.5], [0.5, 1], [0, 0]], float)
    found = relative_norm(norms)
    np.testing.assert_allclose(found[:5], [0, 1, 0.5, 0.25, 0.75])
    assert np.isnan(found[5])
    blocks = ["free"] * 4 + ["tied", "free"]
    fired = np.array([5, 5, 5, 5, 5, 0])
    names = classify(blocks, fired, found, 1, (0.3, 0.7))
    assert names == ["A-only", "B-only", "common", "A-only", "tied", "dead"]
    assert classify(blocks, fired, None, 6, (0.3, 0.7)) == ["dead"] * 6


def counted(fired_in: list, domain_rows: list) -> Measured:
    """What was measured, from firings [half, feature, domain] alone."""
    table, rows = np.array(fired_in), np.array(domain_rows)
    fired = table.sum((0, 2))
    return Measured({}, {}, fired, fired * 2.0, table, rows, int(rows.sum()))


def table_of(norms: list, measured: Measured) -> pl.DataFrame:
    """Table of a dictionary whose first feature is tied, with these decoder norms of A and B."""
    shape = Shape.of(RECIPE | {"features": len(norms), "tied": 1}, [3, 3])
    dictionary = Dictionary(shape).requires_grad_(False)
    rows = torch.tensor(norms[1:], dtype=torch.float32)
    dictionary.blocks["free"].weight.zero_()
    dictionary.blocks["free"].weight[:, [0, 3]] = rows
    return feature_table(dictionary, measured, ["a", "b"], ["x", "y"], 5, (0.3, 0.7))


def test_classes_under_each_convention_by_hand() -> None:
    norms = [[1, 1], [1, 0], [1, 0.3], [1, 0.5], [0.5, 1], [0.3, 1], [0, 1], [1, 0]]
    np.testing.assert_allclose(norm_ratio(np.array(norms, float))[[2, 3]], [0.3 / 1.3, 1 / 3])
    assert np.isnan(norm_ratio(np.zeros((1, 2))))
    measured = counted([[[3, 3]] * 7 + [[2, 2]], [[3, 3]] * 7 + [[0, 0]]], [[9, 9], [9, 9]])
    table = table_of(norms, measured)
    wanted = {
        "class": "tied A-only A-only A-only B-only B-only B-only dead",
        "class_strict": "tied A-only common common common common B-only dead",
        "class_ratio": "tied A-only A-only common common B-only B-only dead",
    }
    for column, names in wanted.items():
        assert table[column].to_list() == names.split(), column
    rows = {(row["convention"], row["class"]): row["count"] for row in conventions(table)}
    assert len(rows) == 3 * 5
    assert [rows[name, "A-only"] for name in ("bounds", "strict", "ratio")] == [3, 1, 2]
    assert [rows[name, "common"] for name in ("bounds", "strict", "ratio")] == [0, 4, 2]
    assert {rows[name, kind] for name in ("bounds", "strict", "ratio") for kind in ("tied", "dead")
            } == {1}  # fmt: skip
    assert sum(rows.values()) == 3 * 8


@pytest.mark.filterwarnings("error")
def test_a_domain_is_chosen_on_one_half_and_reported_on_the_other() -> None:
    choosing = [[4, 6], [4, 1], [0, 3], [0, 0], [3, 3]]  # firings of five features in x and y
    reported = [[5, 20], [1, 10], [0, 0], [7, 7], [8, 0]]
    measured = counted([choosing, reported], [[10, 40], [50, 100]])
    table = table_of([[1, 1]] * 5, measured)
    # Of the first, y has more firings in the half that chooses, but x the larger density.
    assert table["top_domain"].to_list() == ["x", "x", "y", None, "x"]
    share = table["top_domain_share"].to_list()
    assert share == pytest.approx([0.1 / 0.3, 0.02 / 0.12, None, None, 1.0])
    assert table["density"].to_list() == pytest.approx(
        [35 / 200, 16 / 200, 3 / 200, 14 / 200, 14 / 200]
    )


def test_noise_has_no_domain() -> None:
    """Features that fire anywhere: the best of two domains has half of the density, not more."""
    random = np.random.default_rng(0)
    fired_in = random.binomial(1000, 0.01, size=(2, 500, 2))
    table = table_of([[1, 1]] * 500, counted(fired_in, np.full((2, 2), 1000)))
    assert table["top_domain_share"].mean() == pytest.approx(0.5, abs=0.02)
    both = fired_in.sum(0)
    assert (both.max(1) / both.sum(1)).mean() > 0.55  # what choosing on all rows would report


def test_scaling_is_null_where_it_was_not_measured() -> None:
    table = table_of([[1, 1]] * 2, counted([[[9, 9]] * 2] * 2, [[9, 9]] * 2))
    nu = {"nu_error": np.array([0.5, np.nan]), "fired": np.array([3, 4])}
    found = with_scaling(table, nu)
    assert found["nu_error"].to_list() == [0.5, None]
    assert found["fired"].to_list() == [36, 36]


# --- what fitting must find -----------------------------------------------------------------


def fitted(data, recipe: dict, tmp_path: Path, seed: int = 0):
    dictionary, history = fit(data, recipe, seed, tmp_path / f"state-{seed}", CPU)
    names = [f"s{i}" for i in range(len(data.widths))]
    measured = measure(dictionary, principal_components(data), data, names, recipe, CPU)
    table = feature_table(dictionary, measured, names, data.domains, 1, (0.3, 0.7))
    return dictionary, measured, table, history


def test_identical_sides_from_equal_starts_stay_identical() -> None:
    recipe = RECIPE | {"features": 128, "k": 6, "rows": 100 * 256}
    dictionary = Dictionary(Shape.of(recipe, [16, 16]))
    with torch.no_grad():
        for table in (dictionary.blocks["free"].encoder, dictionary.blocks["free"].weight):
            table[:, 16:] = table[:, :16]
    fitter = Fitter(dictionary, recipe)
    for step in range(100):
        one = random_rows(256, 16, seed=step)
        fitter.update(torch.cat([one, one], dim=1))
    relative = relative_norm(dictionary.norms().detach().numpy())
    np.testing.assert_allclose(relative, 0.5, atol=1e-4)
    a, b = dictionary.reconstruct(torch.cat([one, one], dim=1), ("batchtopk", 6)).split(16, dim=1)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_identical_sides_from_independent_starts_are_common(aligned_rows, tmp_path: Path) -> None:
    rows = planted(40_000, (32, 32), owned(2, everyone=115, first=38, second=39), 6, seed=0).rows[0]
    data = aligned_rows([rows, rows])
    recipe = RECIPE | {"features": 256, "rows": 1200 * 512}
    _, measured, table, _ = fitted(data, recipe, tmp_path)
    frequent = table.filter(table["density"] > 1e-3)
    inside = frequent["relative_norm"].is_between(0.45, 0.55)
    assert len(frequent) > 50
    assert inside.mean() >= 0.95
    assert measured.fve["threshold", "s0"] == pytest.approx(
        measured.fve["threshold", "s1"], abs=2e-3
    )


@pytest.mark.slow
def test_a_rotated_twin_has_nothing_of_its_own(aligned_rows, tmp_path: Path) -> None:
    rows = planted(40_000, (32, 32), owned(2, everyone=115, first=38, second=39), 6, seed=0).rows[0]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(32, 32)))[0].astype(np.float32)
    recipe = RECIPE | {"features": 256, "rows": 1200 * 512}
    same = fitted(aligned_rows([rows, rows], folder="same"), recipe, tmp_path / "same")[1]
    data = aligned_rows([rows, 7.5 * rows @ turn], folder="turned")
    _, measured, table, _ = fitted(data, recipe, tmp_path / "turned")
    frequent = table.filter(table["density"] > 1e-3)
    alone = frequent["class"].is_in(["A-only", "B-only"])
    assert alone.mean() <= 0.01
    gap = measured.fve["threshold", "pooled"] - same.fve["threshold", "pooled"]
    assert abs(gap) <= 0.01


@pytest.mark.slow
def test_planted_features_of_every_class_are_recovered(aligned_rows, tmp_path: Path) -> None:
    owners = owned(2, everyone=154, first=51, second=51)
    truth = planted(60_000, (64, 48), owners, 8, seed=0)
    owner = np.where(owners.all(1), "common", np.where(owners[:, 0], "A-only", "B-only"))
    data = aligned_rows(truth.rows)
    recipe = RECIPE | {"features": 512, "k": 8, "rows": 2000 * 1024, "batch": 1024, "lr": 3e-3}
    dictionary, _, table, _ = fitted(data, recipe, tmp_path)
    live = np.flatnonzero((table["class"] != "dead").to_numpy())
    joint = torch.cat(dictionary.decoders(), dim=1).numpy()[live]
    scale = np.repeat(dictionary.scale.numpy(), dictionary.shape.widths)
    wanted = truth.directions / scale
    joint /= np.linalg.norm(joint, axis=1, keepdims=True)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    cosine = wanted @ joint.T
    planted_index, found_index = linear_sum_assignment(-cosine)
    recovered = cosine[planted_index, found_index] >= 0.95
    classes = table["class"].to_numpy()[live]
    for name in ("common", "A-only", "B-only"):
        members = owner[planted_index] == name
        assert recovered[members].mean() >= 0.9, name
    right = classes[found_index[recovered]] == owner[planted_index[recovered]]
    assert right.mean() >= 0.95
    unmatched = set(range(len(live))) - set(found_index[recovered].tolist())
    counts = Counter(classes[list(unmatched)].tolist())
    print("live features without a planted one, by class:", dict(counts))
    assert sum(class_counts(table).values()) == 512
