"""Variance explained of all rows but those of massive norm, which may hold most of the variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moediff.activations.moments import Moments
from moediff.activations.rows import AlignedRows
from moediff.config.activations import MASSIVE_NORM

SAMPLE = 8192  # rows whose median norm stands for that of all: a shard's order is random


def norm_limits(data: AlignedRows) -> list[float]:
    """MASSIVE_NORM times the median norm of each source's first rows, in the models' units."""
    norms: list[list[Tensor]] = [[] for _ in data.widths]
    for chunk in data.chunks:
        for own, rows in zip(norms, data.read(chunk), strict=True):
            own.append(rows.norm(dim=1))
        if chunk.first + chunk.size >= SAMPLE:
            break
    return [MASSIVE_NORM * float(torch.cat(own).median()) for own in norms]


class WithoutMassive:
    """Sums over rows that are massive in some source, to be taken off those over all rows."""

    def __init__(self, data: AlignedRows, columns: Sequence[slice]) -> None:
        self.limits, self.columns = norm_limits(data), columns
        self.moments = [Moments(part.stop - part.start) for part in columns]
        self.error: dict[tuple[str, int], float] = {}  # (method, source)

    @property
    def count(self) -> int:
        return self.moments[0].count

    def add(self, sources: Sequence[Tensor], rows: Tensor, rebuilt: Mapping[str, Tensor]) -> None:
        """Count massive rows of a batch: [row, d_s] a source; standardised and by method rebuilt [row, D]."""
        massive = torch.zeros(len(rows), dtype=torch.bool)
        for own, limit in zip(sources, self.limits, strict=True):
            massive |= own.norm(dim=1).cpu() > limit
        if not massive.any():
            return
        massive = massive.to(rows.device)
        for s, part in enumerate(self.columns):
            some = rows[massive][:, part].double()
            self.moments[s].add(some.cpu())
            for method, values in rebuilt.items():
                error = float((some - values[massive][:, part].double()).square().sum())
                self.error[method, s] = self.error.get((method, s), 0.0) + error

    def fve(
        self, method: str, source: int, error: float, total: float, mean: Tensor, count: int
    ) -> float | None:
        """FVE of the rest, from the error and the total about their mean [d_s] of all `count` rows.

        None where nothing varies but massive rows.
        """
        gone, left = self.moments[source], count - self.count
        if left <= 0:
            return None
        whole = mean.cpu().numpy()
        shift = gone.mean - (count * whole - gone.count * gone.mean) / left
        about = gone.spread.sum() + (shift**2).sum() * left * gone.count / count
        rest = total - float(about)
        return 1.0 - (error - self.error[method, source]) / rest if rest > 0 else None
