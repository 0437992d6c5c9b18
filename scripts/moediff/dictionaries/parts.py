"""The part of a dictionary that one of several ranks holds: a stretch of the features of every block."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from moediff.core import pieces
from moediff.core.errors import UserError
from moediff.core.pieces import Kind
from moediff.core.ranks import Ranks
from moediff.dictionaries.blocks import FREE, TIED, Shape

# Tensors of one number a feature, beside those of blocks.
_OF_FEATURES = {"threshold", "silent"}
AT_ONCE = 1 << 24  # numbers that the first rank is sent at once when a file is written


class Part:
    """Which features of a dictionary a rank holds.

    Files hold whole tensors, block after block, each block from its first rank's features to its last's:
    of a tensor [n, ...] of a block a rank has the rows of its stretch, of one of all features [F] those of
    its stretch in every block; all others it has whole.
    """

    def __init__(self, whole: Shape, ranks: Ranks) -> None:
        """Raises UserError where a block has fewer features than there are ranks."""
        self.whole, self.ranks = whole, ranks
        self.blocks = {name: part.stop - part.start for name, part in whole.stretches().items()}
        for name, count in self.blocks.items():
            if count < ranks.count:
                raise UserError(
                    f"{ranks.count} ranks cannot share the {count} features of block {name}: give the job "
                    f"fewer ranks or the recipe more features ({name.split('-')[0]}), or let every rank hold "
                    "the dictionary"
                )
        own = {name: part.stop - part.start for name, part in self._own().items()}
        exclusive = [count for name, count in own.items() if name not in (TIED, FREE)]
        self.shape = replace(
            whole, tied=own.get(TIED, 0), free=own.get(FREE, 0),
            exclusive=tuple(exclusive) or whole.exclusive,
        )  # fmt: skip
        self.numbers = torch.cat(
            [torch.arange(part.start, part.stop) for part in self._own().values()]
        )

    def _own(self) -> dict[str, slice]:
        """Numbers of its features in each block."""
        found = {}
        for name, block in self.whole.stretches().items():
            start, stop = self.ranks.bounds(self.blocks[name])
            found[name] = slice(block.start + start, block.start + stop)
        return found

    def inside(self, features: slice) -> list[slice]:
        """Its stretches of those features, counted from their first."""
        return [
            slice(part.start - features.start, part.stop - features.start)
            for part in self._own().values()
            if features.start <= part.start and part.stop <= features.stop
        ]

    # --- tensors by their names in files ---

    def _blocks_of(self, name: str, tensor: Tensor) -> list[int] | None:
        """Lengths of the blocks that follow on one another in a tensor; None: every rank has all of it."""
        words = re.split(r"[./]", name)
        if not tensor.ndim:
            return None
        if "blocks" in words:
            return [self.blocks[words[words.index("blocks") + 1]]]
        return list(self.blocks.values()) if _OF_FEATURES & set(words) else None

    def own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of whole tensors what this rank holds, copied."""
        found = {}
        for name, tensor in tensors.items():
            parts, first = [], 0
            for count in self._blocks_of(name, tensor) or []:
                start, stop = self.ranks.bounds(count)
                parts.append(tensor[first + start : first + stop])
                first += count
            found[name] = torch.cat(parts) if parts else tensor
        return found

    def write(self, path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping) -> None:
        """Write whole tensors, of which each rank has its part; the others `give` theirs at the same time."""
        pieces.write(path, self._kinds(tensors), self._sent(tensors), metadata)

    def give(self, tensors: Mapping[str, Tensor]) -> None:
        """What all ranks but the first do where that one writes."""
        for _ in self._sent(tensors):
            pass

    def _kinds(self, tensors: Mapping[str, Tensor]) -> dict[str, Kind]:
        kinds = {}
        for name, tensor in tensors.items():
            blocks = self._blocks_of(name, tensor)
            shape = tuple(tensor.shape) if blocks is None else (sum(blocks), *tensor.shape[1:])
            kinds[name] = Kind(tensor.dtype, shape)
        return kinds

    def _sent(self, tensors: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """On the first rank all that a file holds, piece after piece; the others send it theirs."""
        for name in pieces.in_order(self._kinds(tensors)):
            tensor = tensors[name].detach()
            blocks = self._blocks_of(name, tensor)
            if blocks is None:
                if self.ranks.leads:
                    yield tensor.cpu()
                continue
            each = max(1, AT_ONCE // max(1, tensor[:1].numel()))
            first = 0  # of this rank's rows of the block
            for count in blocks:
                for rank in range(self.ranks.count):
                    start, stop = Ranks(rank, self.ranks.count).bounds(count)
                    for begin in range(0, stop - start, each):
                        length = min(each, stop - start - begin)
                        if rank == self.ranks.rank:
                            piece = tensor[first + begin : first + begin + length]
                        else:
                            piece = tensor.new_empty(length, *tensor.shape[1:])
                        piece = self.ranks.to_first(piece, rank)
                        if self.ranks.leads:
                            yield piece.cpu()
                start, stop = self.ranks.bounds(count)
                first += stop - start
