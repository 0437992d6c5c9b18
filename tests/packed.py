"""A split packed as its job does it, joined to whole arrays; and the plain way, all of it in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from tokenizers import Tokenizer

from moediff.config.corpus import domain_budgets
from moediff.core import artifact
from moediff.corpus import packing
from moediff.corpus.document import group_id
from moediff.corpus.encoding import encode

Corpus = Mapping[str, Path | str]
Weights = Mapping[str, float]


def pack(
    corpus: Corpus,
    weights: Weights,
    tokenizer: Tokenizer,
    end_of_text: int,
    split: str,
    sequences: int,
    length: int,
    seed: int,
    per_shard: int = 7,
) -> dict[str, np.ndarray]:
    """All arrays [sequence, position] of `packing.packed`."""
    shards = list(
        packing.packed(
            corpus, weights, tokenizer, end_of_text, split, sequences, length, seed, per_shard
        )
    )
    assert [len(shard["tokens"]) for shard in shards[:-1]] == [per_shard] * (len(shards) - 1)
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def plainly(
    corpus: Corpus,
    weights: Weights,
    tokenizer: Tokenizer,
    end_of_text: int,
    split: str,
    sequences: int,
    length: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """The same with every text and token in memory; there must be enough text."""
    pieces: list[dict[str, np.ndarray]] = []
    taken: set[str] = set()
    for index, (name, budget) in enumerate(domain_budgets(sequences * length, weights).items()):
        frame = artifact.read_parquet(corpus[name])
        frame = frame.filter(~pl.col("document").is_in(list(taken)))
        taken.update(frame["document"])
        frame = frame.filter(pl.col("split") == split).sort("document")
        frame = frame[np.random.default_rng([seed, index]).permutation(len(frame))]
        for row, found in zip(
            frame.iter_rows(named=True), encode(tokenizer, frame["text"], end_of_text), strict=False
        ):
            count = min(len(found["tokens"]), budget)
            budget -= count
            own = {"document": (int(row["document"], 16), "<i8"),
                   "group": (group_id(name, row["group"]), "<i8"), "domain": (index, "u1")}  # fmt: skip
            pieces.append(
                {key: array[:count] for key, array in found.items()}
                | {key: np.full(count, value, kind) for key, (value, kind) in own.items()}
            )
            if not budget:
                break
    mixed = np.random.default_rng([seed, len(weights)]).permutation(len(pieces))
    return {
        key: np.concatenate([pieces[i][key] for i in mixed]).reshape(sequences, length)
        for key in pieces[0]
    }
