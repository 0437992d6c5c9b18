"""Rows chunk by chunk: which are wanted, and pools cut into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of one shard that is read at once."""

    number: int
    shard: int
    start: int  # in the shard, as stored
    stop: int
    first: int  # its first row in the split, rows of massive norm left out
    size: int  # its rows, those left out


class Selection:
    """A choice of the rows of a split, one bit a row."""

    def __init__(self, sizes: Sequence[int], bits: Sequence[np.ndarray], inverted: bool = False):
        self._sizes, self._bits, self._inverted = sizes, bits, inverted
        self.counts = [int(self.of(number).sum()) for number in range(len(sizes))]  # by chunk
        self.count = sum(self.counts)

    def of(self, number: int) -> np.ndarray:
        """Mask [row] of the chunk of that number."""
        mask = np.unpackbits(self._bits[number], count=self._sizes[number]).view(bool)
        return ~mask if self._inverted else mask

    def __invert__(self) -> Selection:
        return Selection(self._sizes, self._bits, not self._inverted)


class Cutter:
    """Cuts a stream of pools into batches, at multiples of the batch whatever the pools."""

    def __init__(
        self, restore: Callable[[Sequence[Tensor]], list[Tensor]], batch: int, skip: int = 0
    ) -> None:
        """`restore` turns rows as they are stored into what a batch holds."""
        self.restore, self.batch, self.skip = restore, batch, skip
        self.held: list[Tensor] = []  # rows of the last pool that fill no batch

    def cut(self, pool: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """The batches, one tensor [row, ...] a source, that are whole with this pool."""
        skip = min(self.skip, len(pool[0]))
        self.skip -= skip
        start = skip
        if self.held:
            start += self.batch - len(self.held[0])
            first = [
                torch.cat([old, new[skip:start]]) for old, new in zip(self.held, pool, strict=True)
            ]
            if len(first[0]) < self.batch:
                self.held = first
                return
            self.held = []
            yield self.restore(first)
        for stop in range(start + self.batch, len(pool[0]) + 1, self.batch):
            yield self.restore([part[start:stop] for part in pool])
            start = stop
        if start < len(pool[0]):
            self.held = [part[start:].clone() for part in pool]

    def rest(self) -> Iterator[list[Tensor]]:
        """What is left when no pool comes any more, as a shorter batch."""
        if self.held:
            yield self.restore(self.held)
