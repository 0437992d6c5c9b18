"""Signals planted into rows: where they stand, how large they are, and that nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moediff.activations import planting
from moediff.activations.rows import AlignedRows
from moediff.core.errors import UserError

SHARD, DOCUMENT = 300, 50  # rows; every document is a sequence of one shard


def masks(count: int) -> tuple[list[np.ndarray], list[int]]:
    """Every fifth position of every sequence of shards of SHARD rows, and their first sequences."""
    sequences = SHARD // DOCUMENT
    mask = np.zeros((sequences, DOCUMENT), bool)
    mask[:, ::5] = True
    shards = count // SHARD
    return [mask] * shards, [sequences * number for number in range(shards)]


def planted(data: AlignedRows, shares: list[float]) -> planting.PlantedRows:
    mask, first = masks(data.count)
    frequency = planting.share_of_rows(data, mask, first)
    assert frequency == 0.2
    vectors = planting.signal_vectors(data, frequency, shares, 3)
    paths = [[shard.path for shard in shards] for shards in data.sources]
    return planting.PlantedRows(paths, signal=planting.Signal(mask, first, vectors))


def in_order(data: AlignedRows) -> list[np.ndarray]:
    return [torch.cat(parts).numpy() for parts in zip(*data.in_order(77), strict=True)]


@pytest.fixture
def data(aligned_rows) -> AlignedRows:
    random = np.random.default_rng(0)
    return aligned_rows([random.normal(2, 1 + s, (1200, 6 + s)) for s in range(3)], SHARD, 64)


def test_rows_of_the_class_are_moved_by_one_vector_and_no_other_row(data) -> None:
    found = planted(data, [0.1, 0.02, 0.0])
    position = data.column("position")
    for before, after, vector in zip(
        in_order(data), in_order(found), found.signal.vectors, strict=True
    ):
        here = position % 5 == 0
        np.testing.assert_array_equal(after[~here], before[~here])
        moved = after[here] - before[here]
        np.testing.assert_allclose(moved, np.broadcast_to(vector, moved.shape), atol=1e-5)
    np.testing.assert_array_equal(in_order(found)[2], in_order(data)[2])  # no signal: to the bit


def test_a_signal_has_its_share_of_the_variance(data) -> None:
    found = planted(data, [0.1, 0.02, 0.0])
    mask = np.concatenate([found.where(chunk) for chunk in found.chunks]).astype(float)
    for (_, before), vector, share in zip(
        data.moments(), found.signal.vectors, (0.1, 0.02, 0.0), strict=True
    ):
        added = mask[:, None] * vector
        assert added.var(0).sum() / before == pytest.approx(share)


def test_moments_and_digest_are_those_of_the_rows_with_the_signal(data) -> None:
    found, other = planted(data, [0.1, 0.02, 0.0]), planted(data, [0.1, 0.03, 0.0])
    assert len({data.digest, found.digest, other.digest}) == 3
    for (mean, total), rows in zip(found.moments(), in_order(found), strict=True):
        np.testing.assert_allclose(mean, rows.astype(np.float64).mean(0), rtol=1e-6)
        assert total == pytest.approx(rows.astype(np.float64).var(0).sum(), rel=1e-6)


def test_every_way_to_read_shows_the_same_rows(data) -> None:
    found = planted(data, [0.3, 0.3, 0.3])
    whole = in_order(found)
    kept = [
        torch.cat(parts).numpy() for parts in zip(*found.selected(found.every(), 40), strict=True)
    ]
    drawn = found.shuffled(found.every(), 1200, 64, 0)
    mixed = [part.numpy() for part in next(drawn)]
    drawn.close()
    for a, b, c in zip(whole, kept, mixed, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(np.sort(a, 0), np.sort(c, 0))


def test_sources_have_directions_of_their_own(data) -> None:
    one, two, _ = planted(data, [0.1, 0.1, 0.0]).signal.vectors
    along = one @ two[:6] / np.linalg.norm(one) / np.linalg.norm(two)
    assert abs(along) < 0.99


@pytest.mark.parametrize("frequency", [0.0, 1.0])
def test_a_class_of_no_row_or_of_all_is_refused(data, frequency) -> None:
    with pytest.raises(UserError, match="none of the rows is of its class, or all are"):
        planting.signal_vectors(data, frequency, [0.1] * 3, 0)
