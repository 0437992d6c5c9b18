"""Flipped bits and cuts in every kind of file that a study leaves: named, or without effect."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch

from conftest import MOE, RECIPE, cached, write_tokens
from damaged import Tally, damage, reader, shown
from moediff.analysis import example_files
from moediff.core import artifact, checkpoint
from moediff.core.errors import DamagedError
from moediff.corpus import token_shards, tokenizer
from moediff.corpus.tales import tales
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from moediff.models import loading
from moediff.report import svg

KINDS = {"JSON", "activations", "tensors", "tokens", "table", "tokenizer", "model", "chart",
         "checkpoint"}  # fmt: skip


def silent(told: dict[str, dict[str, Tally]]) -> list[str]:
    return [case for ways in told.values() for tally in ways.values() for case in tally.silent]


@pytest.fixture
def one_of_each(tmp_path: Path, tiny_model: Callable) -> Path:
    """A folder with a file of each kind, each written by the function that writes it in a study."""
    folder = tmp_path / "results"
    facts = {"step": 31, "recipe": {"k": 6}, "sources": ["moe.0"]}
    artifact.write_json(folder / "points.json", {"points": {"resid_post.0.5": {"layer": 1}}})
    words = tokenizer.train_tokenizer(itertools.islice(tales(3), 60), 300)
    corpus = folder / "corpus"
    tokenizer.write_tokenizer(
        corpus / "tokenizer.json", corpus / "vocabulary.json", words, tokenizer.END_OF_TEXT,
        [tokenizer.END_OF_TEXT],
    )  # fmt: skip
    tokens = write_tokens(corpus / "00000.h5", 24, 32)
    model, home = tiny_model(MOE).eval(), folder / "model"
    loading.save(model, home)
    loading.write_manifest(home / "model.json", model, home, ".", "float32", {})
    shard = token_shards.read_token_shard(tokens)
    cached(model, shard, folder / "00000.zarr.zip", chunk_rows=100)
    dictionary = Dictionary(Shape.of(RECIPE | {"features": 24}, (32,)), 0, 0.65)
    dictionary.save(folder / "dictionary.safetensors", facts)
    checkpoint.save(folder / "state" / "fit", 31, {"weight": torch.rand(9, 9)}, {"history": [1]})
    table = pl.DataFrame({"feature": [0, 1] * 50, "text": ["a", None] * 50, "share": [0.5] * 100})
    artifact.write_parquet(folder / "features.parquet", table, {})
    lists = pl.Series([["a"]] * 100), pl.Series([[0.5]] * 100, dtype=pl.List(pl.Float32))
    table = table.with_columns(tokens=lists[0], activations=lists[1])
    example_files.write(folder / "examples.parquet", table, {})
    artifact.write_text(folder / "fve.svg", svg.marked("<svg><text>0.966</text></svg>"))
    return folder


def test_no_damage_to_one_of_each_kind_of_file_is_silent(one_of_each: Path) -> None:
    told = damage(one_of_each, flips=360, cuts=90, seed=17)
    print(shown(told))
    assert silent(told) == []
    assert set(told) == KINDS
    assert all(ways["flips"].named for ways in told.values())


def test_a_damage_that_no_reader_sees_would_be_counted(tmp_path: Path) -> None:
    path = tmp_path / "text.json"
    path.write_bytes(b"abc")
    seen = Tally()
    seen.count(path, "a flip", lambda path: path.read_bytes(), b"abd")
    assert len(seen.silent) == 1

    def trace(path: Path) -> object:
        raise KeyError("k")

    def nameless(path: Path) -> object:
        raise DamagedError("a file", "damaged")

    for read in (trace, nameless):
        seen.count(path, "a flip", read, b"")
    assert len(seen.silent) == 3


@pytest.mark.slow
def test_no_damage_to_a_finished_study_is_silent(finished: Path, tmp_path: Path) -> None:
    """1,000 bits and 200 cuts over all its files that a job reads, state and metadata too."""
    results = Path(shutil.copytree(finished / "results", tmp_path / "results", symlinks=True))
    read = [path for path in results.rglob("*") if path.is_file() and reader(path)]
    assert {"state", "models", "corpus", "activations", "dictionaries", "plots"} <= {
        path.relative_to(results).parts[0] for path in read
    }
    told = damage(results, flips=1000, cuts=200, seed=0)
    print(shown(told))
    assert silent(told) == []
    assert set(told) == KINDS
    assert sum(t["flips"].named + t["flips"].without_effect for t in told.values()) >= 1000
    assert sum(t["cuts"].named + t["cuts"].without_effect for t in told.values()) >= 200
