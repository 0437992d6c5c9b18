"""Rows with a signal of rank one added where tokens are of a class: an effect of known size in real rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moediff.activations.chunks import Chunk
from moediff.activations.moments import Moments
from moediff.activations.rows import AlignedRows
from moediff.core import artifact
from moediff.core.errors import UserError


@dataclass(frozen=True)
class Signal:
    """What is added to the rows of a split."""

    masks: Sequence[np.ndarray]  # [sequence, position] of bool, of every shard's tokens
    first: Sequence[int]  # number in the split of every shard's first sequence
    vectors: Sequence[np.ndarray]  # [d_model] of each source, in its units; 0: it has no signal


class PlantedRows(AlignedRows):
    """Aligned rows, those of a class moved by one vector a source; stored in the dtype that they have."""

    def __init__(
        self,
        sources: Sequence[Sequence[Path | str]],
        points: Sequence[str | None] | None = None,
        views: Sequence[str | None] | None = None,
        *,
        signal: Signal,
    ) -> None:
        super().__init__(sources, points, views)
        self.signal = signal

    def where(self, chunk: Chunk) -> np.ndarray:
        """Which rows of a chunk have the signal: [row] of bool."""
        return class_of_rows(self, chunk, self.signal.masks, self.signal.first)

    @property
    def digest(self) -> str:
        signal = self.signal
        return artifact.digest(super().digest, *signal.masks, list(signal.first), *signal.vectors)

    def moments(self) -> list[tuple[np.ndarray, float]]:
        """Those of the rows as they are here: the shards know the sums of those without the signal."""
        sums = [Moments(width) for width in self.widths]
        for chunk in self.chunks:
            for found, rows in zip(sums, self.read(chunk), strict=True):
                found.add(rows)
        return [(found.mean, float(found.spread.sum() / found.count)) for found in sums]

    def _stored(self, chunk: Chunk) -> list[Tensor]:
        parts = super()._stored(chunk)
        here = torch.from_numpy(np.flatnonzero(self.where(chunk)))
        if not len(here):
            return parts
        for number, (part, vector) in enumerate(zip(parts, self.signal.vectors, strict=True)):
            if vector.any():
                added = torch.from_numpy(vector * 2.0 ** self._exponents[number]).float()
                parts[number] = part.index_copy(
                    0, here, (part[here].float() + added).to(part.dtype)
                )
        return parts


def class_of_rows(
    rows: AlignedRows, chunk: Chunk, masks: Sequence[np.ndarray], first: Sequence[int]
) -> np.ndarray:
    """A mask [row] of a chunk's rows, from those [sequence, position] of the shards' tokens."""
    sequence = rows.column_of(chunk, "sequence") - first[chunk.shard]
    found: np.ndarray = masks[chunk.shard][sequence, rows.column_of(chunk, "position")]
    return found


def share_of_rows(rows: AlignedRows, masks: Sequence[np.ndarray], first: Sequence[int]) -> float:
    """Share of the rows that are of a class."""
    count = sum(int(class_of_rows(rows, chunk, masks, first).sum()) for chunk in rows.chunks)
    return count / rows.count


def signal_vectors(
    rows: AlignedRows, frequency: float, shares: Sequence[float], seed: Any
) -> list[np.ndarray]:
    """A vector [d_model] for each source that adds `shares` [S] of its variance, on `frequency` of the rows.

    The variance of what is added, a^2 f (1 - f) by its length a, over the total variance of the rows without
    it. Each source has a direction of its own, drawn at random: models have no basis in common. Raises
    UserError where no row is of the class, or all are.
    """
    if not 0 < frequency < 1:
        raise UserError("no signal can be planted: none of the rows is of its class, or all are")
    found = []
    for number, ((mean, variance), share) in enumerate(zip(rows.moments(), shares, strict=True)):
        drawn = np.random.default_rng([*np.atleast_1d(seed), number]).normal(size=len(mean))
        length = np.sqrt(share * variance / (frequency * (1 - frequency)))
        found.append(drawn / np.linalg.norm(drawn) * length)
    return found
