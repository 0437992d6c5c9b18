"""Blocks of a dictionary's features: tied, free, exclusive; their shapes and weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moediff.config.base import count_of

DRAWN_AT_ONCE = 4096  # rows of random numbers, where not all are kept
TIED, FREE, EXCLUSIVE = "tied", "free", "exclusive"


def summed(norms: Tensor) -> Tensor:
    """Decoder norm summed over sources (2504.02922)."""
    return norms.sum(1)


def mixed(norms: Tensor) -> Tensor:
    """0.7 of the norm of the joint decoder row and 0.3 of the sum (code of 2603.05805)."""
    return 0.7 * norms.norm(dim=1) + 0.3 * norms.sum(1)


RANKS = {"summed": summed, "mixed": mixed}


@dataclass(frozen=True)
class Shape:
    """Sizes of a dictionary."""

    widths: tuple[int, ...]  # d_s
    tied: int
    free: int
    exclusive: tuple[int, ...]  # for each source
    tie: str  # "norm" or "direction"
    rank: str  # name in RANKS

    @classmethod
    def of(cls, recipe: Mapping[str, Any], widths: Sequence[int]) -> Shape:
        """The blocks that a recipe asks for; an SAE has neither tied nor exclusive features."""
        features, several = recipe["features"], len(widths) > 1
        tied = count_of(recipe["tied"], features) if several else 0
        each = count_of(recipe["exclusive"], features) if several else 0
        exclusive = (each,) * len(widths)
        free = features - tied - sum(exclusive)
        return cls(tuple(widths), tied, free, exclusive, recipe["tie"], recipe["rank"])

    @property
    def common(self) -> int:
        return self.tied + self.free

    @property
    def features(self) -> int:
        return self.common + sum(self.exclusive)

    def columns(self, source: int) -> slice:
        """Columns of a row that hold one source."""
        start = sum(self.widths[:source])
        return slice(start, start + self.widths[source])

    def exclusive_features(self, source: int) -> slice:
        """Numbers of the features that only one source has."""
        start = self.common + sum(self.exclusive[:source])
        return slice(start, start + self.exclusive[source])

    def stretches(self) -> dict[str, slice]:
        """Numbers of the features of each block that has some, in order."""
        every = {TIED: slice(0, self.tied), FREE: slice(self.tied, self.common)}
        for source in range(len(self.exclusive)):
            every[f"{EXCLUSIVE}-{source}"] = self.exclusive_features(source)
        return {name: part for name, part in every.items() if part.stop > part.start}

    def blocks(self) -> list[str]:
        """Block of every feature, in order; exclusive ones name the source's index."""
        names = [TIED] * self.tied + [FREE] * self.free
        for source, count in enumerate(self.exclusive):
            names += [f"{EXCLUSIVE}-{source}"] * count
        return names


class Block(nn.Module):
    """Features that see one stretch of columns, each with its own decoder row there."""

    def __init__(self, name: str, features: slice, columns: slice, rows: Tensor) -> None:
        """Encoder and decoder begin as `rows` [features, columns]."""
        super().__init__()
        self.name, self.features, self.columns = name, features, columns
        self.encoder = nn.Parameter(rows.clone())  # [n, columns]
        self.encoder_bias = nn.Parameter(torch.zeros(len(rows)))  # [n]
        self._set_decoder(rows)

    def _set_decoder(self, rows: Tensor) -> None:
        self.weight = nn.Parameter(rows.clone())  # [n, columns]

    def decoder(self) -> Tensor:
        """Decoder rows [n, columns], the tie applied."""
        return self.weight

    def norms(self, parts: Sequence[tuple[int, slice]], sources: int) -> Tensor:
        """Decoder norm [n, S] in each source; `parts` are the sources it sees and their columns."""
        decoder = self.decoder()
        by_source = [decoder.new_zeros(len(decoder))] * sources
        for source, columns in parts:
            by_source[source] = decoder[:, columns].norm(dim=1)
        return torch.stack(by_source, dim=1)


class NormTied(Block):
    """Features with the same decoder norm in every source, and a direction of their own in each."""

    def __init__(self, widths: Sequence[int], *block: Any) -> None:
        self.widths = list(widths)
        super().__init__(*block)

    def _set_decoder(self, rows: Tensor) -> None:
        self.directions = nn.Parameter(rows.clone())  # [n, D]
        self.norm = nn.Parameter(rows.norm(dim=1) * len(self.widths) ** -0.5)  # [n]

    def decoder(self) -> Tensor:
        parts = self.directions.split(self.widths, dim=1)
        unit = [part / part.norm(dim=1, keepdim=True) for part in parts]
        return torch.cat(unit, dim=1) * self.norm[:, None]

    def norms(self, parts: Sequence[tuple[int, slice]], sources: int) -> Tensor:
        return self.norm.abs()[:, None].expand(-1, sources)


class DirectionTied(Block):
    """Features with one decoder row for all sources, which have equal widths."""

    def __init__(self, widths: Sequence[int], *block: Any) -> None:
        self.copies = len(widths)
        super().__init__(*block)

    def _set_decoder(self, rows: Tensor) -> None:
        self.shared = nn.Parameter(rows[:, : rows.shape[1] // self.copies].clone())  # [n, d]

    def decoder(self) -> Tensor:
        return self.shared.repeat(1, self.copies)


TIES = {"norm": NormTied, "direction": DirectionTied}


def directions(
    count: int, width: int, random: torch.Generator, kept: Sequence[slice] | None = None
) -> Tensor:
    """Random unit rows [count, width]; only those `kept`, which rise, without the others ever being held."""
    if kept is None:
        rows = torch.randn(count, width, generator=random)
    else:
        rows = torch.cat(list(_drawn(count, width, random, kept)))
    return rows / rows.norm(dim=1, keepdim=True)


def _drawn(
    count: int, width: int, random: torch.Generator, kept: Sequence[slice]
) -> Iterator[Tensor]:
    """The rows `kept` of the table [count, width] that `random` gives, which is drawn in parts.

    torch draws sixteen numbers at a time and the last sixteen anew: parts of whole sixteens, the last of
    one at least, are the numbers of one table (torch 2.13.0, which is pinned).
    """
    starts = list(range(0, count, DRAWN_AT_ONCE)) or [0]
    if len(starts) > 1 and count - starts[-1] < 16:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        rows = torch.randn(stop - start, width, generator=random)
        yield rows[:0]  # where none are kept
        for part in kept:
            first, last = max(part.start, start), min(part.stop, stop)
            yield rows[first - start : max(first, last) - start]


def widen(rows: Tensor, columns: slice, width: int) -> Tensor:
    """Rows of one stretch of columns as rows of all columns, zero elsewhere."""
    if rows.shape[1] == width:
        return rows
    return nn.functional.pad(rows, (columns.start, width - columns.stop))
