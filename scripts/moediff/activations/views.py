"""Shards whose rows are shown as a control needs them: rotated, or paired with the wrong text."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from moediff.activations.moments import Moments
from moediff.activations.shards import Shard

SEED = 0  # of the rotation
TIMES = 10.0  # what rotated rows are multiplied by: neither basis nor scale may decide a class


class Permuted(Shard):
    """Each row stands where one of another document does: nothing is in common with other sources.

    A shard's rows are in random order, so that those of its other half are as good as any
    permutation, and are read as fast.
    """

    def stored(self, point: str, start: int, stop: int) -> Tensor:
        first, last = start + self.count // 2, stop + self.count // 2
        if first >= self.count:
            return super().stored(point, first - self.count, last - self.count)
        parts = [super().stored(point, first, min(last, self.count))]
        if last > self.count:
            parts.append(super().stored(point, 0, last - self.count))
        return torch.cat(parts)

    def massive(self, point: str) -> np.ndarray | None:
        found = super().massive(point)
        return None if found is None else np.roll(found, -(self.count // 2))


class Rotated(Shard):
    """The same rows in a random basis and a larger unit: everything is in common with the shard's own."""

    def stored(self, point: str, start: int, stop: int) -> Tensor:
        rows = super().stored(point, start, stop).numpy().astype(np.float32)
        return torch.from_numpy(rows @ (TIMES * rotation(rows.shape[1])))

    def moments(self, point: str) -> Moments:
        """Mean, and total variance, spread evenly: what each axis has of it is not known."""
        found = super().moments(point)
        found.mean = found.mean @ (TIMES * rotation(len(found.mean)).astype(np.float64))
        found.spread = np.full(len(found.mean), TIMES**2 * found.spread.mean())
        return found


VIEWS = {None: Shard, "permuted": Permuted, "rotated": Rotated}


def rotation(width: int, seed: int = SEED) -> np.ndarray:
    """A random orthogonal matrix [width, width], float32."""
    normal = np.random.default_rng([seed, width]).normal(size=(width, width))
    basis, upper = np.linalg.qr(normal)
    return (basis * np.sign(np.diag(upper))).astype(np.float32)
