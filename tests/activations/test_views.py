"""Controls of known answer: a rotated and rescaled twin has all in common, permuted rows nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import made_facts
from moediff.activations.rows import AlignedRows
from moediff.activations.shard_writer import ShardWriter
from moediff.activations.shards import COLUMNS, TYPES, Stored
from moediff.activations.views import TIMES, rotation

CPU = torch.device("cpu")


def reopened(data: AlignedRows, views: list[str | None]) -> AlignedRows:
    """The first source's shards of `data` once for each view."""
    paths = [shard.path for shard in data.sources[0]]
    return AlignedRows([paths] * len(views), views=views)


def in_order(data: AlignedRows, batch: int = 77) -> list[np.ndarray]:
    return [torch.cat(parts).numpy() for parts in zip(*data.in_order(batch), strict=True)]


def test_rotated_rows_are_the_same_in_another_basis_and_unit(aligned_rows) -> None:
    rows = np.random.default_rng(0).normal(2.0, 1.0, (1000, 6)).astype(np.float32)
    data = reopened(aligned_rows([rows], 300, 64), [None, "rotated"])
    own, other = in_order(data)
    basis = rotation(6)
    np.testing.assert_allclose(basis @ basis.T, np.eye(6), atol=1e-6)
    assert np.abs(basis - np.diag(np.diag(basis))).max() > 0.3
    np.testing.assert_allclose(other, TIMES * own @ basis, rtol=1e-4, atol=1e-4)
    (_, variance), (mean, total) = data.moments()
    np.testing.assert_allclose(mean, other.astype(np.float64).mean(0), rtol=1e-4)
    assert total == pytest.approx(TIMES**2 * variance, rel=1e-9)
    assert total == pytest.approx(other.astype(np.float64).var(0).sum(), rel=1e-4)


def test_permuted_rows_are_all_there_and_none_in_its_place(aligned_rows) -> None:
    rows = np.arange(9001, dtype=np.float32)[:, None].repeat(2, 1)
    data = reopened(aligned_rows([rows], 3000, 64), [None, "permuted"])
    own, other = (part[:, 0] for part in in_order(data))
    assert sorted(own) == sorted(other)
    assert (own != other)[:9000].all()
    assert np.array_equal(own // 3000, other // 3000)  # of the same shard
    far = own // 50 != other // 50  # documents of 50 rows: a row meets its own by chance
    assert far[:9000].mean() > 0.95
    assert abs(np.corrcoef(own % 3000, other % 3000)[0, 1]) < 0.05
    kept = [torch.cat(parts) for parts in zip(*data.selected(data.every(), 40), strict=True)]
    assert np.array_equal(kept[1][:, 0].numpy(), other)  # the same pairs however they are read
    (mean, total), (its_mean, its_total) = data.moments()
    np.testing.assert_allclose(mean, its_mean)
    assert total == its_total


def test_a_massive_row_is_left_out_where_it_is_shown(tmp_path: Path) -> None:
    row = np.arange(10)
    columns = {name: row.astype(TYPES[name]) for name in COLUMNS}
    writer = ShardWriter(
        tmp_path / "a.zarr.zip", columns, {"p": Stored("made.0", 2, 0, 3.0)}, "float32", 4
    )
    rows = np.ones((10, 2), np.float32) * (1 + row[:, None] / 100)
    rows[3] = 50.0
    writer.add({"p": torch.from_numpy(rows)})
    writer.write(made_facts("m"))
    data = AlignedRows([[tmp_path / "a.zarr.zip"]] * 2, views=[None, "permuted"])
    assert data.count == 8  # the row itself, and the one that it is paired with
    assert max(part.max() for part in in_order(data)) < 2
    assert [moment[1] < 1 for moment in data.moments()] == [True, True]


def test_what_they_are_says_how_they_are_seen(aligned_rows) -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    data = aligned_rows([rows])
    seen = [
        reopened(data, views) for views in ([None, None], [None, "rotated"], [None, "permuted"])
    ]
    assert len({each.digest for each in seen}) == 3
    assert [origin.get("view") for origin in seen[1].origins] == [None, "rotated"]
