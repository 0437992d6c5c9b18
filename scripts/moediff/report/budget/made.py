"""Made data of a config's own sizes, on which rates are measured: text, rows, dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, models
from torch import Tensor

from moediff.activations.rows import AlignedRows
from moediff.activations.shard_writer import ShardWriter
from moediff.activations.shards import Stored
from moediff.analysis.panel import Groups
from moediff.config.layout import SHARD
from moediff.core import artifact
from moediff.corpus.token_shards import write_token_shard
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.principal_components import Baseline

DOCUMENT = 64  # rows of a document
SOURCE = "made"  # tokenizer, and the only domain where there is no corpus


class MadeTokens:
    """A few packed sequences of random tokens, as `TokenSplit` gives them."""

    domains = (SOURCE,)

    def __init__(self, sequences: int, length: int, vocabulary: int) -> None:
        random = np.random.default_rng(0)
        self.tokens = random.integers(0, vocabulary, (sequences, length)).astype(np.uint32)
        self.domain = np.zeros_like(self.tokens, np.uint8)
        self.starts = np.zeros(self.tokens.shape, bool)
        self.starts[:, 0] = True
        self.is_target = ~self.starts[:, 1:]


def tokens(count: int, vocabulary: int) -> np.ndarray:
    """Random tokens [row] by Zipf's law, as those of a text are."""
    drawn = vocabulary ** np.random.default_rng(0).random(count)
    return np.minimum(drawn.astype(np.int64), vocabulary) - 1


def text(path: Path, sequences: int, length: int, vocabulary: int, domains: Sequence[str]) -> Path:
    """Write a token shard, each of whose sequences is one document."""
    shape = sequences, length
    sequence, position = np.indices(shape)
    arrays: dict[str, np.ndarray] = {
        "tokens": tokens(sequences * length, vocabulary).reshape(shape).astype(np.uint32),
        "document": sequence.astype(np.int64),
        "group": sequence.astype(np.int64),
        "domain": (sequence % len(domains)).astype(np.uint8),
        "start": position.astype(np.uint32),
        "end": (position + 1).astype(np.uint32),
        "word_end": np.ones(shape, bool),
    }
    made_by = artifact.made_by("token_shards")
    write_token_shard(path, arrays, domains, SOURCE, 0, made_by, [])
    return path


@dataclass(frozen=True)
class RowMaker:
    """Writes the rows of sources: the same tokens for all, and random activations."""

    folder: Path
    vocabulary: int
    domains: Sequence[str]
    dtype: str
    chunk_rows: int

    def write(
        self, name: str, count: int, width: int, point: str, routing: Mapping[str, Tensor]
    ) -> Path:
        """A shard of `count` rows [row, width] at a hook point; experts and gates are rows of `routing`."""
        path = self.folder / f"{name}-{count}{SHARD}"
        if path.exists():
            return path
        row = np.arange(count)
        document, position = np.divmod(row, DOCUMENT)
        columns = {
            "token": tokens(count, self.vocabulary), "document": document, "group": document,
            "sequence": document, "position": position, "domain": document % len(self.domains),
            "start": position, "end": position + 1,
        }  # fmt: skip
        random = np.random.default_rng(int(artifact.digest(name), 16))
        values = torch.from_numpy(random.standard_normal((count, width), np.float32))
        stored = {SOURCE: Stored(point, width, 0)}
        writer = ShardWriter(path, columns, stored, self.dtype, self.chunk_rows)
        drawn = {n: part[random.integers(0, len(part), count)] for n, part in routing.items()}
        writer.add({SOURCE: values}, drawn)
        facts = {"model": name, "domains": list(self.domains), "tokens": count, "left_out": {},
                 "alignment": None, "tokenizer": SOURCE}  # fmt: skip
        writer.write(artifact.made_by("activations") | facts)
        return path


@dataclass
class MadeFit:
    """A dictionary over made rows: fitted for a moment, its threshold such that k features fire a row.

    What one stage finds of it the next ones take.
    """

    names: Sequence[str]  # of its sources
    recipe: Mapping[str, Any]
    rows: Callable[[int], AlignedRows]  # so many
    device: torch.device
    dictionary: Dictionary
    baseline: Baseline
    table: pl.DataFrame = field(default_factory=pl.DataFrame)  # of its features
    examples: pl.DataFrame | None = None
    groups: dict[int, Groups] = field(
        default_factory=dict
    )  # of a panel whose first kind has so many

    @property
    def features(self) -> int:
        return self.dictionary.shape.features


def tokenizer(vocabulary: int) -> Tokenizer:
    """One that reads and writes `vocabulary` words."""
    words = {f"w{number} ": number for number in range(vocabulary)}
    return Tokenizer(models.WordLevel(words, unk_token="w0 "))
