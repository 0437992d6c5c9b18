"""Mean and sum of squared deviations of rows, streamed in float64 and merged over shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 17  # values summed at a time


class Moments:
    """Count, mean [width] and spread [width], the sum of squared deviations (Chan et al. 1983)."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)
        self.spread = np.zeros(width)

    def add(self, rows: Tensor) -> None:
        """Count rows [row, width]."""
        if len(rows):
            self.merge(*_moments(rows))

    def remove(self, rows: Tensor) -> None:
        """Take rows [row, width] out again that were counted before."""
        if not len(rows):
            return
        count, mean, spread = _moments(rows)
        left = self.count - count
        whole, self.count = self.mean, left
        self.mean = (whole * (left + count) - mean * count) / left if left else np.zeros_like(whole)
        shift = mean - self.mean
        self.spread = self.spread - spread - shift**2 * (left * count / max(left + count, 1))
        self.spread = self.spread.clip(0)

    def merge(self, count: int, mean: np.ndarray, spread: np.ndarray) -> None:
        """Count rows of which only the moments are known."""
        total = self.count + count
        if not total:
            return
        shift = mean - self.mean
        self.spread = self.spread + spread + shift**2 * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total


def _moments(rows: Tensor) -> tuple[int, np.ndarray, np.ndarray]:
    """About the mean of a few rows, so that one pass loses no digits; sums as products, which are fast."""
    import torch  # whoever only merges moments, as a manifest does, needs none

    near = rows[:64].double().mean(0)
    total, squares = torch.zeros_like(near), torch.zeros_like(near)
    # Fresh memory for all rows at once would cost more than all sums.
    for some in rows.split(max(BLOCK // rows.shape[1], 1)):
        moved = some.to(torch.float64, copy=True).sub_(near)
        one = moved.new_ones(1, len(moved))
        total += (one @ moved)[0]
        squares += (one @ moved.square_())[0]
    mean = total / len(rows)
    spread = (squares - total * mean).clamp_min_(0)
    return len(rows), (near + mean).numpy(), spread.numpy()
