"""Exact top-k selection and sparse products with their gradients (plain torch).

A sparse code is a list of entries: `rows` [n], `features` [n] (both int64, sorted by row, then
feature) and `values` [n]. Only selected features are touched, forward and backward; the dense form
of the same sums is in the tests, and both agree to rounding. Every sum has a fixed order, so equal
input gives equal bytes on CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Entries = tuple[Tensor, Tensor]  # rows [n], features [n]


def top_entries(scores: Tensor, count: int, guess: float = 0.0) -> tuple[Entries, float]:
    """The `count` largest positive scores of a whole batch [row, feature], and the smallest of them.

    Exact: among equal scores at the edge those first by row, then feature, are taken. `guess` is a
    score that about `count` entries are expected to pass (the edge of the batch before); it only
    saves time. When it is too high the selection falls back to all scores.
    """
    flat = scores.flatten()
    count = min(count, flat.numel())
    candidates = (flat > max(guess, 0.0)).nonzero().squeeze(1)
    if len(candidates) < count and guess > 0:
        candidates = (flat > 0).nonzero().squeeze(1)
    values = flat[candidates]
    if len(candidates) > count:
        edge = values.topk(count, sorted=False).values.min()
        above, equal = values > edge, (values == edge).nonzero().squeeze(1)
        chosen = above.clone()
        chosen[equal[: count - int(above.sum())]] = True
        candidates, values = candidates[chosen], values[chosen]
    width = scores.shape[1]
    smallest = float(values.min()) if len(values) else 0.0
    return (candidates // width, candidates % width), smallest


def entries_above(scores: Tensor, threshold: float) -> Entries:
    """Entries of [row, feature] that are positive and at least `threshold`."""
    rows, features = ((scores >= threshold) & (scores > 0)).nonzero(as_tuple=True)
    return rows, features


def weighted_rows(
    table: Tensor, index: Tensor, groups: Tensor, weights: Tensor, size: int
) -> Tensor:
    """Sum of weights[j] * table[index[j]] over the j of each group: [size, width].

    `groups` [n] must be sorted.
    """
    counts = torch.bincount(groups, minlength=size)
    offsets = counts.cumsum(0) - counts
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weights)


class _SelectedValues(torch.autograd.Function):
    """Pre-activations at the entries; the dense product is done, its gradient is sparse."""

    @staticmethod
    def forward(ctx, dense, inputs, encoder, bias, rows, features):
        ctx.save_for_backward(inputs, rows, features)
        ctx.size = len(encoder)
        return dense[rows, features]

    @staticmethod
    def backward(ctx, grad):
        inputs, rows, features = ctx.saved_tensors
        by_feature = features.argsort(stable=True)
        grouped, weights = features[by_feature], grad[by_feature].contiguous()
        encoder = weighted_rows(inputs, rows[by_feature], grouped, weights, ctx.size)
        bias = torch.zeros(ctx.size, dtype=grad.dtype, device=grad.device)
        bias.index_add_(0, grouped, weights)
        return None, None, encoder, bias, None, None


def selected_values(
    dense: Tensor, inputs: Tensor, encoder: Tensor, bias: Tensor, entries: Entries
) -> Tensor:
    """Values [n] of `dense` = inputs @ encoder.T + bias at the entries.

    inputs [row, width], encoder [feature, width], bias [feature]. The gradient reaches encoder and
    bias, not the inputs.
    """
    return _SelectedValues.apply(dense, inputs, encoder, bias, *entries)


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, decoder, rows, features, size):
        ctx.save_for_backward(values, decoder, rows, features)
        return weighted_rows(decoder, features, rows, values, size)

    @staticmethod
    def backward(ctx, grad):
        values, decoder, rows, features = ctx.saved_tensors
        grad = grad.contiguous()
        by_value = (grad[rows] * decoder[features]).sum(1)
        order = features.argsort(stable=True)
        by_decoder = weighted_rows(
            grad, rows[order], features[order], values[order].contiguous(), len(decoder)
        )
        return by_value, by_decoder, None, None, None


def sparse_decode(values: Tensor, decoder: Tensor, entries: Entries, size: int) -> Tensor:
    """Sum over each row's entries of value times decoder row: [size, width]; decoder [feature, width]."""
    return _SparseDecode.apply(values, decoder, *entries, size)
