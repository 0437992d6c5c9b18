"""Sums over entries in plain torch: the back end of every device that has no kernels of its own.

An entry is a row and a feature. `kernels` has the same functions; both give the same numbers to
rounding, in an order that does not change from run to run.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from moediff.dictionaries.entries import Entries

BLOCK = 2**20  # values compared at once on a CPU: their mask stays in its cache


def above(values: Tensor, floor: float | Tensor) -> Entries:
    """Entries of `values` [row, feature] that are at least `floor`, by row, then feature.

    `floor` is a number, or a tensor that broadcasts: [row, 1] or [feature].
    """
    size, width = values.shape
    floors = floor.expand(size, width) if isinstance(floor, Tensor) else None
    step = max(1, BLOCK // width if values.device.type == "cpu" else size)
    by_stretch = []
    for start in range(0, max(size, 1), step):  # no rows: one empty part
        part = slice(start, start + step)
        mask = values[part] >= (floor if floors is None else floors[part])
        by_stretch.append(_true_places(mask) + start * width)
    places = torch.cat(by_stretch)
    return torch.div(places, width, rounding_mode="floor"), places % width


def _true_places(mask: Tensor) -> Tensor:
    """Where `mask`, flattened, holds."""
    if mask.device.type == "cpu":  # numpy skips stretches of zeros, torch counts them twice
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().squeeze(1)


def group_starts(groups: Tensor, size: int) -> Tensor:
    """Where each of `size` groups begins in the sorted `groups` [n]: [size]."""
    counts = torch.bincount(groups, minlength=size)
    return counts.cumsum(0) - counts


def weighted_rows(
    table: Tensor, index: Tensor, groups: Tensor, weights: Tensor, size: int
) -> Tensor:
    """Sum of weights[j] * table[index[j]] over the j of each group: [size, width].

    `groups` [n] must be sorted.
    """
    return F.embedding_bag(
        index, table, group_starts(groups, size), mode="sum", per_sample_weights=weights
    )


def group_sums(values: Tensor, groups: Tensor, size: int) -> Tensor:
    """Sum of `values` [n] over each group: [size]; `groups` [n] must be sorted."""
    return values.new_zeros(size).index_add_(0, groups, values)


def row_dots(one: Tensor, other: Tensor, entries: Entries) -> Tensor:
    """Dot product of row `entries[0][j]` of `one` and row `entries[1][j]` of `other`, for each j.

    `entries[0]` must be sorted.
    """
    rows, features = entries
    if not len(rows):
        return one.new_empty(0)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        one.contiguous(), other.contiguous(), features, group_starts(rows, len(one)), rows, 0
    )
