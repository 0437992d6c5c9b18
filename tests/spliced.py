"""Dictionaries of known answer for splicing, text for their sides, and what is spliced by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel

from conftest import DROP, RECIPE, dense_tables
from moediff.activations.kept_rows import kept_rows
from moediff.analysis.reruns import Pass, Text
from moediff.analysis.sides import Side
from moediff.analysis.splicing import ALL, LIVE, splice
from moediff.corpus.token_shards import TokenShard
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary


def loud(model: PreTrainedModel) -> PreTrainedModel:
    """Larger weights, so that what is replaced matters."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model.eval().requires_grad_(False)


def spliced(
    sides: Sequence[Side],
    texts: Iterable[Sequence[Text]],
    dictionary: Dictionary,
    across: bool = False,
    sequences: int = 10,
    batch: int = 4,
    **more: Any,
) -> pl.DataFrame:
    """The table of `splice`."""
    return splice(sides, texts, dictionary, across, sequences, batch, **more).table


def made(widths: Sequence[int], features: int, seed: int = 0) -> Dictionary:
    """A dictionary of free features with a mean and a scale of its own; nothing fires in it."""
    shape = Shape.of(RECIPE | {"features": features, "exclusive": 0.0}, widths)
    found = Dictionary(shape, seed).requires_grad_(False)
    random = torch.Generator().manual_seed(seed)
    found.mean.copy_(torch.randn(sum(widths), generator=random))
    found.scale.copy_(2 + torch.rand(len(widths), generator=random))
    found.threshold.fill_(torch.inf)
    return found


def identity(widths: Sequence[int], decoder: Tensor | None = None) -> Dictionary:
    """Features that read a coordinate of a row or its negative; they write it, or a row of `decoder`."""
    width = sum(widths)
    found, eye = made(widths, 2 * width), torch.eye(width)
    written = eye if decoder is None else decoder
    found.blocks["free"].encoder.copy_(torch.cat([eye, -eye]))
    found.blocks["free"].weight.copy_(torch.cat([written, -written]))
    found.threshold.fill_(0.0)
    return found


def zeros(widths: Sequence[int]) -> Dictionary:
    """Its bias alone, which is zero in the models' units; exactly, since scales are powers of two."""
    found = made(widths, 4)
    found.scale.fill_(2.0)
    found.decoder_bias.copy_(-found.mean / 2)
    return found


def text(shard: TokenShard, sides: int, across: bool = False) -> list[Text]:
    return [Text(shard, kept_rows(shard, DROP, across).mask)] * sides


def one_pass(shard: TokenShard, model: PreTrainedModel | None = None, across: bool = False) -> Pass:
    """All sequences of a shard as one pass."""
    return Pass(model, Text(shard), slice(None), across)


def of(table: pl.DataFrame, column: str = "cross_entropy", **wanted: str) -> float:
    wanted = {"domain": ALL, "routing": LIVE} | wanted
    (value,) = table.filter(**wanted)[column]
    return value


def plain_reconstruction(dictionary: Dictionary, rows: Sequence[Tensor], gone=None) -> Tensor:
    """Reconstruction [row, D] in the models' units, by dense products."""
    decoder, encoder, bias = (part.double() for part in dense_tables(dictionary))
    widths = torch.tensor(dictionary.shape.widths)
    scale = dictionary.scale.double().repeat_interleave(widths)
    standard = (torch.cat(list(rows), dim=1).double() - dictionary.mean.double()) / scale
    codes = standard @ encoder.T + bias  # [row, F]
    weight = sum(part.norm(dim=1) for part in decoder.split(dictionary.shape.widths, dim=1))
    codes = codes * (codes * weight >= dictionary.threshold) * (codes > 0)
    if gone is not None:
        codes[:, gone] = 0
    found = codes @ decoder + dictionary.decoder_bias.double()
    return found * scale + dictionary.mean.double()
