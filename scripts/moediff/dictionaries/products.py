"""Sparse products with their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from moediff.dictionaries.entries import Entries, crowded
from moediff.dictionaries.scores import backend


def _matrix(values: Tensor, entries: Entries, size: int, features: int) -> Tensor:
    """Entries as a matrix [size, features], zero elsewhere."""
    return values.new_zeros(size, features).index_put(entries, values)


class _SelectedValues(torch.autograd.Function):
    """Pre-activations at the entries; they are known, their gradient is sparse."""

    @staticmethod
    def forward(ctx, known, inputs, encoder, bias, rows, features):
        ctx.save_for_backward(inputs, rows, features)
        ctx.size = len(encoder)
        return known.clone()

    @staticmethod
    def backward(ctx, grad):
        inputs, rows, features = ctx.saved_tensors
        if crowded((rows, features), len(inputs), ctx.size):
            matrix = _matrix(grad, (rows, features), len(inputs), ctx.size)
            return None, None, matrix.T @ inputs, matrix.sum(0), None, None
        by_feature = features.argsort(stable=True)
        grouped, weights = features[by_feature], grad[by_feature].contiguous()
        sums = backend(inputs)
        encoder = sums.weighted_rows(inputs, rows[by_feature], grouped, weights, ctx.size)
        bias = sums.group_sums(weights, grouped, ctx.size)
        return None, None, encoder, bias, None, None


def selected_values(
    known: Tensor, inputs: Tensor, encoder: Tensor, bias: Tensor, entries: Entries
) -> Tensor:
    """`known` [n], the values of inputs @ encoder.T + bias at the entries, with their gradient.

    inputs [row, width], encoder [feature, width], bias [feature]. The gradient reaches encoder and
    bias, not the inputs.
    """
    return _SelectedValues.apply(known, inputs, encoder, bias, *entries)


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, decoder, rows, features, size):
        ctx.save_for_backward(values, decoder, rows, features)
        if crowded((rows, features), size, len(decoder)):
            return _matrix(values, (rows, features), size, len(decoder)) @ decoder
        return backend(decoder).weighted_rows(decoder, features, rows, values, size)

    @staticmethod
    def backward(ctx, grad):
        values, decoder, rows, features = ctx.saved_tensors
        grad = grad.contiguous()
        if crowded((rows, features), len(grad), len(decoder)):
            matrix = _matrix(values, (rows, features), len(grad), len(decoder))
            return (grad @ decoder.T)[rows, features], matrix.T @ grad, None, None, None
        sums = backend(grad)
        by_value = sums.row_dots(grad, decoder, (rows, features))
        order = features.argsort(stable=True)
        by_decoder = sums.weighted_rows(
            grad, rows[order], features[order], values[order].contiguous(), len(decoder)
        )
        return by_value, by_decoder, None, None, None


def sparse_decode(values: Tensor, decoder: Tensor, entries: Entries, size: int) -> Tensor:
    """Sum over each row's entries of value times decoder row: [size, width]; decoder [feature, width]."""
    return _SparseDecode.apply(values, decoder, *entries, size)
