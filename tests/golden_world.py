"""The small world that golden outcomes are of, and how an outcome is written down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from transformers import PreTrainedModel

from moediff.activations.rows import AlignedRows
from moediff.corpus.token_shards import TokenShard

CPU = torch.device("cpu")
NAMES = ["moe.0", "moe.1", "dense.0", "dense.1"]
KINDS = {"moe": NAMES[:2], "dense": NAMES[2:]}
FIVE = [*NAMES, "dense.2"]
Outcome = list[str | float | None]


@dataclass(frozen=True)
class Small:
    """Two tiny trained models and their rows at the end of layer 1, a MoE's before a dense one's."""

    models: Mapping[str, PreTrainedModel]  # moe and dense
    tokens: TokenShard
    rows: AlignedRows  # of both
    folder: Path  # for what a stage writes


def flat(value: object) -> Iterator[str | float | None]:
    """Texts and numbers of nested rows, keys left out, in order."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from flat(part)
    elif value is None or isinstance(value, str):
        yield value
    else:
        yield float(value)


def means(table: pl.DataFrame, *columns: str) -> list[float]:
    """The mean of columns, what is not known left out."""
    return [float(table[name].drop_nulls().drop_nans().mean()) for name in columns]


# --- what is measured of rows -----------------------------------------------------------------------
