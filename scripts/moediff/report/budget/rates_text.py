"""How fast text is read, packed and counted, measured for a moment on generated tales."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from moediff.config.base import Config
from moediff.core import artifact
from moediff.corpus import packing, sources, token_shards
from moediff.corpus.ngrams import ngram_losses
from moediff.corpus.tales import tales
from moediff.corpus.tokenizer import train_tokenizer
from moediff.report.budget import made
from moediff.report.budget.clock import Cost, cost
from moediff.report.budget.jobs import Rates

TALES = 400
VOCABULARY = 512  # of a tokenizer that is trained in a moment; a larger one is about as fast
SPLITS = {"fit": 0.0, "validation": 0.0}  # all of it is of the train split


def measured(config: Config, folder: Path) -> Rates:
    """Rates of the stages of text; none for a config without a corpus.

    Documents are read of a file of JSON lines: what generates or fetches text has a speed of its own.
    """
    if "corpus" not in config:
        return Rates()
    texts = list(itertools.islice(tales(0), TALES))
    settings = {"source": "files", "paths": [str(folder / "tales.jsonl")], "column": "text", "group": None,
                "group_pattern": None}  # fmt: skip
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    each = sum(len(text.encode()) for text in texts) / TALES

    def documents(count: int) -> None:
        (folder / "tales.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
        parts = sources.documents("made", settings, SPLITS, None)
        artifact.write_parquet_parts(folder / "tales.parquet", parts, artifact.made_by("documents"))

    read = cost(documents, TALES // 4)
    documents(TALES)
    words, length = train_tokenizer(texts, VOCABULARY), config["corpus"]["sequence"]["length"]
    sequences = max(4, int(TALES * each) // 8 // length)  # text has at most 8 bytes a token
    shard = folder / "tales.h5"

    def pack(count: int) -> None:
        corpus = {"made": folder / "tales.parquet"}, {"made": 1.0}
        made_by = artifact.made_by("token_shards")
        for arrays in packing.packed(*corpus, words, 0, "train", count, length, 0, count, folder):
            token_shards.write_token_shard(shard, arrays, ["made"], made.SOURCE, 0, made_by, [])

    packed = cost(pack, sequences // 4)
    pack(sequences)
    split = token_shards.TokenSplit([shard], False, folder)

    def count_ngrams(count: int) -> None:
        some = split.part(slice(0, count))
        ngram_losses(some, some, VOCABULARY, folder)

    counted = cost(count_ngrams, sequences // 4)
    return Rates(_rate(read, each), _rate(packed, length), _rate(counted, length))


def _rate(of_one: Cost, amount: float) -> float | None:
    """Bytes or tokens a second, where one unit of work is so many; None where its time was lost in noise."""
    return amount / of_one.each if of_one.each > 0 else None
