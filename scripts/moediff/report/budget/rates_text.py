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
from moediff.report.budget.clock import rate
from moediff.report.budget.jobs import Rates

TALES = 150
VOCABULARY = 512  # of a tokenizer that is trained in a moment; a larger one is about as fast
SPLITS = {"fit": 0.0, "validation": 0.0}  # all of it is of the train split


def measured(config: Config, folder: Path) -> Rates:
    """Rates of the stages of text; none for a config without a corpus.

    Documents are read of a file of JSON lines: what generates or fetches text has a speed of its own.
    """
    if "corpus" not in config:
        return Rates()
    lines, corpus = folder / "tales.jsonl", folder / "tales.parquet"
    texts = list(itertools.islice(tales(0), TALES))
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    size = sum(len(text.encode()) for text in texts)
    settings = {"source": "files", "paths": [str(lines)], "column": "text", "group": None,
                "group_pattern": None}  # fmt: skip

    def documents() -> int:
        parts = sources.documents("made", settings, SPLITS, None)
        artifact.write_parquet_parts(corpus, parts, artifact.made_by("documents"))
        return size

    reading = rate(documents)
    words, length = train_tokenizer(texts, VOCABULARY), config["corpus"]["sequence"]["length"]
    count = max(1, size // 8 // length)  # sequences; text has at most 8 bytes a token
    shard = folder / "tales.h5"

    def pack() -> int:
        arguments = {"made": corpus}, {"made": 1.0}, words, 0, "train", count, length, 0, count
        for arrays in packing.packed(*arguments, folder):
            made_by = artifact.made_by("token_shards")
            token_shards.write_token_shard(shard, arrays, ["made"], made.SOURCE, 0, made_by, [])
        return count * length

    packs = rate(pack)
    split = token_shards.TokenSplit([shard], False, folder)

    def counted() -> int:
        ngram_losses(split, split, VOCABULARY, folder)
        return count * length

    return Rates(reading, packs, rate(counted))
