"""Sums over entries in Triton, for CUDA: the same functions as `plain`, and the same numbers to rounding.

No kernel adds atomically, so every sum has a fixed order and a run repeats itself. Whoever owns a
result (a row, a feature, a block of entries) walks all that goes into it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moediff.dictionaries.entries import Entries

SCAN = 1024  # features that one program compares with the floor
DEPTH = 16  # entries that a program gathers at once
SPAN = 128  # columns that a program sums at once


# --- which entries ----------------------------------------------------------------------------


@triton.jit
def _passes(values, floor, row, block, features, by_row, by_feature, SIZE: tl.constexpr):
    """Features of one block of a row, and whether each is at least its floor."""
    feature = block * SIZE + tl.arange(0, SIZE)
    inside = feature < features
    value = tl.load(values + row * features + feature, mask=inside, other=0)
    least = tl.load(floor + row * by_row + feature * by_feature, mask=inside, other=0)
    return feature, inside & (value.to(least.dtype) >= least)


@triton.jit
def _count(values, floor, counts, features, by_row, by_feature, SIZE: tl.constexpr):
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    _, passed = _passes(values, floor, row, block, features, by_row, by_feature, SIZE)
    tl.store(counts + row * tl.num_programs(1) + block, tl.sum(passed.to(tl.int32), axis=0))


@triton.jit
def _write(values, floor, starts, rows, chosen, features, by_row, by_feature, SIZE: tl.constexpr):
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    feature, passed = _passes(values, floor, row, block, features, by_row, by_feature, SIZE)
    count = passed.to(tl.int32)
    place = tl.load(starts + row * tl.num_programs(1) + block) + tl.cumsum(count, 0) - count
    tl.store(rows + place, tl.zeros_like(feature).to(tl.int64) + row, mask=passed)
    tl.store(chosen + place, feature.to(tl.int64), mask=passed)


def above(values: Tensor, floor: float | Tensor) -> Entries:
    """Entries of `values` [row, feature] that are at least `floor`, by row, then feature.

    `floor` is a number, or a tensor that broadcasts: [row, 1] or [feature].
    """
    size, features = values.shape
    values = values.contiguous()
    dtype = torch.promote_types(values.dtype, torch.float32)
    floor = torch.as_tensor(floor, dtype=dtype, device=values.device)
    floor = floor.expand(size, features)  # a stride of 0 where it is the same
    grid = (size, triton.cdiv(features, SCAN))
    counts = torch.empty(grid, dtype=torch.int32, device=values.device)
    given = (features, *floor.stride(), SCAN)
    _count[grid](values, floor, counts, *given)
    ends = counts.flatten().cumsum(0)
    total = int(ends[-1])
    rows, chosen = (torch.empty(total, dtype=torch.int64, device=values.device) for _ in range(2))
    _write[grid](values, floor, ends - counts.flatten(), rows, chosen, *given)
    return rows, chosen


# --- sums -------------------------------------------------------------------------------------


@triton.jit
def _weighted_rows(
    table, index, weights, bounds, out, width, DEPTH: tl.constexpr, SPAN: tl.constexpr
):
    group = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * SPAN + tl.arange(0, SPAN)
    inside = column < width
    start, stop = tl.load(bounds + group), tl.load(bounds + group + 1)
    total = tl.zeros([SPAN], dtype=out.dtype.element_ty)
    for first in range(start, stop, DEPTH):
        entry = first + tl.arange(0, DEPTH)
        there = entry < stop
        row = tl.load(index + entry, mask=there, other=0)
        weight = tl.load(weights + entry, mask=there, other=0.0)
        block = tl.load(
            table + row[:, None] * width + column[None, :],
            mask=there[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
        total += tl.sum(weight[:, None] * block, axis=0)
    tl.store(out + group * width + column, total, mask=inside)


def group_bounds(groups: Tensor, size: int) -> Tensor:
    """Where each of `size` groups begins in the sorted `groups` [n], and the end of all: [size + 1]."""
    every = torch.arange(size + 1, device=groups.device)
    return torch.searchsorted(groups, every)


def weighted_rows(
    table: Tensor, index: Tensor, groups: Tensor, weights: Tensor, size: int
) -> Tensor:
    """Sum of weights[j] * table[index[j]] over the j of each group: [size, width].

    `groups` [n] must be sorted. A group is summed in steps of DEPTH entries, in order.
    """
    width = table.shape[1]
    out = table.new_empty(size, width)
    grid = (size, triton.cdiv(width, SPAN))
    _weighted_rows[grid](
        table.contiguous(), index.contiguous(), weights.contiguous(), group_bounds(groups, size),
        out, width, DEPTH, SPAN,
    )  # fmt: skip
    return out


def group_sums(values: Tensor, groups: Tensor, size: int) -> Tensor:
    """Sum of `values` [n] over each group: [size]; `groups` [n] must be sorted."""
    one = values.new_ones(1, 1)
    return weighted_rows(one, torch.zeros_like(groups), groups, values, size).squeeze(1)


@triton.jit
def _row_dots(
    one, other, rows, features, out, count, width, DEPTH: tl.constexpr, SPAN: tl.constexpr
):
    entry = tl.program_id(0).to(tl.int64) * DEPTH + tl.arange(0, DEPTH)
    there = entry < count
    row = tl.load(rows + entry, mask=there, other=0)
    feature = tl.load(features + entry, mask=there, other=0)
    total = tl.zeros([DEPTH], dtype=out.dtype.element_ty)
    for first in range(0, width, SPAN):
        column = first + tl.arange(0, SPAN)
        mask = there[:, None] & (column < width)[None, :]
        left = tl.load(one + row[:, None] * width + column[None, :], mask=mask, other=0.0)
        right = tl.load(other + feature[:, None] * width + column[None, :], mask=mask, other=0.0)
        total += tl.sum(left * right, axis=1)
    tl.store(out + entry, total, mask=there)


def row_dots(one: Tensor, other: Tensor, entries: Entries) -> Tensor:
    """Dot product of row `entries[0][j]` of `one` and row `entries[1][j]` of `other`, for each j."""
    rows, features = (part.contiguous() for part in entries)
    out = one.new_empty(len(rows))
    if len(rows):
        _row_dots[(triton.cdiv(len(rows), DEPTH),)](
            one.contiguous(), other.contiguous(), rows, features, out, len(rows), one.shape[1],
            DEPTH, SPAN,
        )  # fmt: skip
    return out
