"""Controls of known answer on planted rows: a twin in another basis, and rows of another text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import RECIPE
from moediff.activations.rows import AlignedRows
from moediff.activations.views import rotation
from moediff.analysis.classes import class_counts
from moediff.analysis.evaluation import measure
from moediff.analysis.features import feature_table
from moediff.analysis.measured import POOLED, THRESHOLD
from moediff.dictionaries.fitting import fit
from moediff.dictionaries.principal_components import Baseline
from moediff.synthetic.planted import owned, planted

CPU = torch.device("cpu")


def reopened(data: AlignedRows, views: list[str | None]) -> AlignedRows:
    """The first source's shards of `data` once for each view."""
    paths = [shard.path for shard in data.sources[0]]
    return AlignedRows([paths] * len(views), views=views)


WORLD = {"rows": 24_000, "widths": (40,), "amounts": owned(1, everyone=90), "active": 3, "seed": 1}

SMALL = RECIPE | {"k": 3, "features": 80, "rows": 300_000, "threshold_rows": 2000}


def measured(data: AlignedRows, state: Path) -> tuple[float, dict[str, int]]:
    """Pooled FVE and class counts of a crosscoder."""
    names = ["a", "b"]
    dictionary, _ = fit(data, SMALL, 0, state, CPU)
    width = sum(data.widths)
    scale = torch.ones(width, dtype=torch.float64)
    none = Baseline(torch.eye(width, dtype=torch.float64), scale, scale)
    found = measure(dictionary, none, data, names, SMALL, CPU)
    table = feature_table(dictionary, found, names, data.domains, 1, (0.3, 0.7))
    return found.fve[THRESHOLD, POOLED], class_counts(table)


def test_a_twin_in_any_basis_and_unit_has_the_same_classes(aligned_rows, tmp_path: Path) -> None:
    (rows,) = planted(**WORLD).rows
    basis = rotation(rows.shape[1], seed=5)
    twins = {"same": rows} | {c: (c * rows @ basis) for c in (0.1, 1.0, 10.0)}
    found = {
        name: measured(aligned_rows([rows, twin], folder=f"{name}"), tmp_path / f"fit-{name}")
        for name, twin in twins.items()
    }
    fve, classes = found["same"]
    assert fve > 0.8
    assert classes["common"] > 75
    for name in (0.1, 1.0, 10.0):
        assert found[name][0] == pytest.approx(fve, abs=0.01)
        moved = max(abs(found[name][1][kind] - classes[kind]) for kind in classes)
        assert moved <= 0.01 * SMALL["features"]


def test_of_permuted_rows_nearly_all_is_exclusive(aligned_rows, tmp_path: Path) -> None:
    (rows,) = planted(**WORLD).rows
    data = reopened(aligned_rows([rows], 6000), [None, "permuted"])
    _, classes = measured(data, tmp_path / "fit")
    live = classes["A-only"] + classes["B-only"] + classes["common"]
    assert live > 75
    assert classes["A-only"] + classes["B-only"] >= 0.95 * live
