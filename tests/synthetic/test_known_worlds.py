"""What fitting must find in worlds of known truth."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from conftest import RECIPE
from moediff.analysis.classes import class_counts, relative_norm
from moediff.analysis.evaluation import measure
from moediff.analysis.features import feature_table
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.fitting import fit
from moediff.dictionaries.principal_components import principal_components
from moediff.dictionaries.trainer import Fitter
from moediff.synthetic.planted import owned, planted

CPU = torch.device("cpu")


def random_rows(count: int, width: int, seed: int = 0, rank: int = 24) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    codes = torch.randn(count, rank, generator=random).relu()
    return codes @ torch.randn(rank, width, generator=random) / rank


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
