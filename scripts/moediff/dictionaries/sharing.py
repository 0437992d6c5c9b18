"""How ranks share the fit of one dictionary: the rows of every batch, or its features."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moediff.core.ranks import ALONE, Ranks
from moediff.dictionaries.entries import Entries
from moediff.dictionaries.parts import Part


@dataclass(frozen=True)
class Sharing:
    """Of the two at most one is of several ranks.

    Who shares rows takes its part of every batch and holds all features; who shares features sees whole
    batches and holds the features of its `Part`.
    """

    rows: Ranks = ALONE
    features: Ranks = ALONE
    numbers: Tensor | None = (
        None  # of this rank's features among all, where they are shared; rising
    )
    count: int = 0  # of all features, where they are shared

    @classmethod
    def of(cls, ranks: Ranks, part: Part | None, device: torch.device) -> Sharing:
        """Ranks that share a dictionary's features where each has a part of it, and rows if not."""
        if part is None:
            return cls(ranks)
        return cls(ALONE, ranks, part.numbers.to(device), part.whole.features)

    @property
    def all(self) -> Ranks:
        """The ranks, whatever they share."""
        return self.features if self.features.count > 1 else self.rows

    def below(self, stop: int) -> int:
        """How many of this rank's features are among the first so many of all."""
        return stop if self.numbers is None else int((self.numbers < stop).sum())

    def among(self, features: Tensor) -> Sharing:
        """The same of some of a rank's features [n], which are counted anew."""
        return self if self.numbers is None else replace(self, numbers=self.numbers[features])

    def keys(self, entries: Entries) -> Tensor:
        """A number for each entry of this rank [n] that rises by row, then by feature among those of all
        ranks that share them."""
        rows, features = entries
        return rows if self.numbers is None else rows * self.count + self.numbers[features]

    def first(self, entries: Entries, wanted: int) -> Tensor:
        """Which of this rank's entries [n] are among the first so many of all, by row, then feature."""
        rows = entries[0]
        if self.numbers is None:
            before = int(self.rows.each(len(rows))[: self.rows.rank].sum())
            return torch.arange(before, before + len(rows), device=rows.device) < wanted
        keys = self.keys(entries)
        every = torch.cat(self.features.gathered(keys)).sort().values
        return (
            keys < every[wanted] if wanted < len(every) else torch.ones_like(keys, dtype=torch.bool)
        )

    def decoded(self, own: Tensor) -> Tensor:
        """What the features of all ranks decode to, of what those of this one do: [row, D], with its
        gradient."""
        return own if self.features.count == 1 else _Sum.apply(own, self.features)


class _Sum(torch.autograd.Function):
    """A sum over ranks of which all make the same: each has the gradient of its own term."""

    @staticmethod
    def forward(ctx, own, ranks):
        total = own.clone()
        ranks.sum_([total])
        return total

    @staticmethod
    def backward(ctx, grad):
        return grad, None
