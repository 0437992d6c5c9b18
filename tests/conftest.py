"""Small worlds that the tests share: text, packed tokens, tiny models, rows in shards, a finished study."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

if not shutil.which("nvidia-smi"):  # before torch, which imports Triton where it is installed
    os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from moediff.activations import caching, kept_rows
from moediff.activations.rows import AlignedRows
from moediff.activations.shard_writer import ShardWriter
from moediff.activations.shards import COLUMNS, Shard, Stored
from moediff.config import schema
from moediff.core import artifact
from moediff.corpus import token_shards
from moediff.corpus.sources import document_id
from moediff.corpus.tokenizer import train_tokenizer
from moediff.dictionaries.dictionary import Dictionary
from moediff.hooks.points import Point
from moediff.models import build
from moediff.training.plan import Plan
from workflow import ROOT, prepare, run

VOCABULARY = 64
DENSE = {
    "d_model": 32, "layers": 2, "heads": 2, "ffn": 64, "experts": 1, "top_k": 1,
    "renormalise": False,
}  # fmt: skip
MOE = DENSE | {"ffn": 32, "experts": 4, "top_k": 2}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=["dense", "moe"])
def architecture(request: pytest.FixtureRequest) -> dict:
    """Settings of a tiny dense model and of a tiny MoE of the same active size."""
    return DENSE if request.param == "dense" else MOE


@pytest.fixture
def tiny_model() -> Callable:
    """Builds a tiny model from an architecture and a seed."""
    return lambda settings, seed=0: build.build(settings, VOCABULARY, 64, 0, seed)


def write_tokens(path: Path, sequences: int, length: int, seed: int = 0) -> Path:
    """A token shard of random documents (a noisy cycle, so that there is something to learn)."""
    random = np.random.default_rng(seed)
    flat = np.empty(sequences * length, np.uint16)
    document = np.empty(flat.size, np.int64)
    start = np.empty(flat.size, np.uint32)
    place, name = 0, 1
    while place < flat.size:
        size = min(int(random.integers(5, 3 * length)), flat.size - place)
        walk = random.integers(1, VOCABULARY) + np.cumsum(random.integers(1, 3, size))
        flat[place : place + size] = 1 + walk % (VOCABULARY - 1)
        flat[place + size - 1] = 0
        document[place : place + size] = name
        start[place : place + size] = 3 * np.arange(size)
        place, name = place + size, name + 1
    arrays = {
        "tokens": flat.reshape(sequences, length),
        "document": document.reshape(sequences, length),
        "group": (document // 4 + 1000 * (document % 2)).reshape(sequences, length),
        "domain": (document % 2).astype(np.uint8).reshape(sequences, length),
        "start": start.reshape(sequences, length),
        "end": (start + 3 * (flat != 0)).astype(np.uint32).reshape(sequences, length),
        "word_end": (start % 2 == 0).reshape(sequences, length),
    }
    provenance = artifact.made_by("token_shards")
    token_shards.write_token_shard(path, arrays, ["odd", "even"], "tokenizer", 0, provenance, [0])
    return path


@pytest.fixture
def token_shard(tmp_path: Path) -> Callable[..., Path]:
    """Writes a token shard under the test's folder."""
    return lambda name="tokens.h5", sequences=24, length=32, seed=0: write_tokens(
        tmp_path / name, sequences, length, seed
    )


WORDS = ["the", "fox", "saw", "a", "red", "moon", "over", "quiet", "hills", "and", "ran", "home"]


def sentences(count: int, seed: int) -> list[str]:
    """Different texts of known words, each with its number."""
    chance = Random(seed)
    return [
        f"{seed}.{i} " + " ".join(chance.choices(WORDS, k=chance.randint(1, 30)))
        for i in range(count)
    ]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Trained on sentences, 320 entries."""
    return train_tokenizer(sentences(300, 0), 320)


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """Writes one file a domain, given as {split: texts}."""

    def write(**domains: dict[str, list[str]]) -> dict[str, Path]:
        paths = {}
        for name, splits in domains.items():
            rows = [
                {"text": text, "document": document_id(text), "group": text[:3], "split": split}
                for split, texts in splits.items()
                for text in texts
            ]
            paths[name] = tmp_path / f"{name}.parquet"
            artifact.write_parquet(paths[name], pl.DataFrame(rows), {})
        return paths

    return write


DROP = {"sequence_start": True, "special_tokens": True, "massive_norm": None}


def cached(
    model: PreTrainedModel,
    shard: token_shards.TokenShard,
    path: Path,
    points: Sequence[tuple[str, int]] = (("resid_post", 1),),
    dtype: str = "float16",
    drop: Mapping = DROP,
    routing: str = "used",
    others: Sequence[token_shards.TokenShard] = (),
    across: bool = False,
    batch: int = 8,
    chunk_rows: int = 100,
) -> Shard:
    """The activation shard of a model on a token shard, calibrated on the same one."""
    named = {f"{hook}.{layer}": Point(hook, layer) for hook, layer in points}
    reading = caching.Reading(named, routing)
    kept = kept_rows.kept_rows(shard, drop, across, others)
    measured = caching.calibrate(model, reading, shard, kept, across, dtype)
    stored = caching.stored_points(measured, drop["massive_norm"])
    made_by = artifact.made_by("activations", model="m")
    caching.cache(
        model, reading, stored, shard, kept, across, dtype, batch, chunk_rows, path, made_by
    )
    return Shard(path)


def made_facts(model: str) -> dict:
    """Attributes of a shard of made rows."""
    return artifact.made_by("activations") | {
        "model": model, "domains": ["odd", "even"], "tokens": 1, "left_out": {}, "alignment": None,
        "tokenizer": "made",
    }  # fmt: skip


@pytest.fixture
def aligned_rows(tmp_path: Path) -> Callable[..., AlignedRows]:
    return rows_below(tmp_path)


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks meet on this machine's loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


def rows_below(place: Path) -> Callable[..., AlignedRows]:
    """Writes arrays [row, d], one a source, as shards of `shard_rows` rows and opens them."""

    def write(
        sources: Sequence[np.ndarray],
        shard_rows: int = 10_000,
        chunk_rows: int = 512,
        document_rows: int = 50,
        group_documents: int = 1,
        folder: str = "rows",
    ) -> AlignedRows:
        count = len(sources[0])
        row = np.arange(count)
        document = row // document_rows
        every = {
            "token": (row % VOCABULARY).astype(np.uint32),
            "document": document.astype(np.int64),
            "group": (document // group_documents).astype(np.int64),
            "sequence": document.astype(np.int64),
            "position": (row % document_rows).astype(np.int32),
            "domain": (document % 2).astype(np.uint8),
        }
        every |= {"start": (3 * every["position"]), "end": 3 * every["position"] + 3}
        paths = []
        for number, rows in enumerate(sources):
            paths.append([])
            for start in range(0, count, shard_rows):
                part = slice(start, start + shard_rows)
                path = place / folder / f"{number}-{start}.zarr.zip"
                columns = {name: every[name][part] for name in COLUMNS}
                stored = {"made": Stored("made.0", rows.shape[1], 0)}
                writer = ShardWriter(path, columns, stored, "float32", chunk_rows)
                writer.add({"made": torch.from_numpy(rows[part].astype(np.float32))})
                writer.write(made_facts(str(number)))
                paths[-1].append(path)
        return AlignedRows(paths)

    return write


def dense_tables(dictionary: Dictionary) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Decoder [F, D], encoder [F, D] and encoder bias [F] of all blocks, zeros where there are no weights."""
    found = [[], [], []]
    width = sum(dictionary.shape.widths)
    for block in dictionary.blocks.values():
        pad = (block.columns.start, width - block.columns.stop)
        found[0].append(torch.nn.functional.pad(block.decoder(), pad))
        found[1].append(torch.nn.functional.pad(block.encoder, pad))
        found[2].append(block.encoder_bias)
    decoder, encoder, bias = (torch.cat(parts) for parts in found)
    return decoder, encoder, bias


def state_bytes(dictionary: Dictionary) -> dict[str, tuple[str, bytes]]:
    """Dtype and bytes of every tensor of a dictionary."""
    return {
        name: (str(tensor.dtype), tensor.detach().numpy().tobytes())
        for name, tensor in dictionary.state_dict().items()
    }


@contextmanager
def unchanged(*dictionaries: Dictionary) -> Iterator[None]:
    """Fail when what is measured here leaves a dictionary other than it was: a caller uses it again."""
    before = [state_bytes(dictionary) for dictionary in dictionaries]
    assert all(dictionary.mean.dtype == torch.float32 for dictionary in dictionaries)
    yield
    assert [state_bytes(dictionary) for dictionary in dictionaries] == before


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny study was run to the end: by one worker, and copied by each."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with open(shared.with_name("finished.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "results/report.html").exists():
            found = run(shared if shared.exists() else prepare(shared), "all")
            assert found.returncode == 0, found.stdout + found.stderr
    return Path(shutil.copytree(shared, base / "study", symlinks=True))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The finished study, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "study", symlinks=True))


SCHEMA = yaml.safe_load((ROOT / "config/schema.yaml").read_text(encoding="utf-8"))
PRESETS = yaml.safe_load((ROOT / "config/presets.yaml").read_text(encoding="utf-8"))
RECIPE = schema.defaults(SCHEMA, "recipe") | {
    "k": 8, "features": 256, "tied": 0.0, "rows": 400_000, "batch": 512, "lr": 3e-3,
    "threshold_rows": 2000, "pool_chunks": 8, "screen": False,
}  # fmt: skip
PLAN = Plan(
    peak_lr=1e-2, batch=4, epochs=2, warmup=0.1, final_lr=0.1, betas=(0.9, 0.99),
    weight_decay=0.01, clip=1.0, router_losses={"balance": 0.01}, precision="float32",
    evaluations=4, data_seed=0,
)  # fmt: skip
