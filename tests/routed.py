"""Rows of a tiny MoE with its routing, and dictionaries over them, for the tests of experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from conftest import RECIPE, cached, dense_tables
from families import tiny
from moediff.activations.rows import AlignedRows
from moediff.analysis.reruns import Pass, Text
from moediff.corpus.token_shards import TokenShard, read_token_shard
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.fitting import begun
from moediff.dictionaries.normalising import NORMALISERS

FIRST = 100  # number of the first sequence of the tokens here: another shard's end before it


def made_dictionary(
    data: AlignedRows, features: int, share: float = 0.15, normalise: str = "none"
) -> Dictionary:
    """A random dictionary whose features fire on about a share of the rows, each of its own."""
    recipe = RECIPE | {"features": features, "start": 1.0}
    dictionary = begun(recipe, data.widths, NORMALISERS[normalise].fitted(data), seed=1)
    dictionary.requires_grad_(False)
    for block in dictionary.blocks.values():
        block.encoder_bias.copy_(torch.linspace(0.02, 0.1, len(block.encoder_bias)))
    rows = torch.cat([dictionary.standardise(part) for part in data.in_order(4096)])
    scores, _ = dictionary.score(rows)
    dictionary.threshold.copy_(passed_by(scores.all, share).clamp_min(1e-3))
    return dictionary


def passed_by(scores: torch.Tensor, share: float) -> torch.Tensor:
    """Thresholds [F] that a share of scores [row, F] pass, half way between two of them."""
    ranked = scores.sort(dim=0, descending=True).values
    last = int(share * len(scores))
    return ranked[last - 1 : last + 1].mean(0)


def routed_rows(
    folder: Path,
    token_shard: Callable[..., Path],
    point: tuple[str, int],
    family: str = "qwen3-moe",
    beside: bool = False,
    change: Callable[[PreTrainedModel], object] = lambda model: None,
) -> tuple[PreTrainedModel, TokenShard, AlignedRows]:
    """A model, its tokens and its rows at one point, a dense model's beside them where asked."""
    shard = replace(read_token_shard(token_shard(sequences=24)), first=FIRST)
    model = tiny(family)
    change(model)
    sources = [[cached(model, shard, folder / "own.zarr.zip", [point], "float32").path]]
    if beside:
        dense, at = tiny("llama"), [("resid_post", 1)]
        sources.insert(0, [cached(dense, shard, folder / "other.zarr.zip", at, "float32").path])
    return model, shard, AlignedRows(sources)


def pre_activations(dictionary: Dictionary, sources: list[torch.Tensor]) -> torch.Tensor:
    """[row, F] in float64, from dense tables."""
    _, encoder, bias = dense_tables(dictionary)
    return in_float64(dictionary).standardise(sources) @ encoder.double().T + bias.double()


def fires(dictionary: Dictionary, sources: list[torch.Tensor]) -> torch.Tensor:
    """Whether each feature fires [row, F]."""
    weight = in_float64(dictionary).norms().sum(1)
    scores = pre_activations(dictionary, sources) * weight
    return (scores >= dictionary.threshold) & (scores > 0)


def known_shard(path: Path) -> TokenShard:
    """The token shard of a file, its ids brought into the vocabulary of the tiny models."""
    shard = read_token_shard(path)
    return replace(shard, tokens=shard.tokens % 60)


def two_passes(model: PreTrainedModel, shard: TokenShard) -> list[Pass]:
    """Passes of a model over the six sequences of a shard, three at a time."""
    return [Pass(model, Text(shard), part, False) for part in (slice(0, 3), slice(3, 6))]
