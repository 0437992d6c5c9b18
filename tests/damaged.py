"""Bits flipped and files cut, and what the workflow's own readers then say.

Of each damaged file a reader gives what it gave before, or ends in one line that names it: anything
else is silent, and none may be.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moediff.activations.shards import Shard
from moediff.analysis import example_files
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.corpus import token_shards, tokenizer
from moediff.models import loading
from moediff.report import svg
from moediff.training import history

CPU = torch.device("cpu")
UNREAD = {"logs", "benchmarks"}  # folders of which no job reads anything, and below, kinds of files
UNREAD_SUFFIXES = {".html", ".png"}


def _tensors(path: Path) -> object:
    tensors, metadata = artifact.read_tensors(path)
    return metadata, {name: _bytes(tensor) for name, tensor in tensors.items()}


def _bytes(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    plain = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return str(tensor.dtype), tuple(tensor.shape), plain.numpy().tobytes()


def _model(path: Path) -> object:
    model, facts = loading.open_manifest(path.parent / "model.json", CPU)
    return facts, {name: _bytes(tensor) for name, tensor in model.state_dict().items()}


def _tokenizer(path: Path) -> object:
    wanted = tokenizer.read_vocabulary(path.with_name("vocabulary.json")).digest
    return tokenizer.open_tokenizer(path, wanted).to_str()


def _tokens(path: Path) -> object:
    shard = vars(token_shards.read_token_shard(path))
    return {
        name: (str(value.dtype), value.shape, value.tobytes()) if hasattr(value, "dtype") else value
        for name, value in shard.items()
    }


def _rows(path: Path) -> object:
    shard = Shard(path)
    return shard.facts, {
        name: (str(array.dtype), array.shape, shard.read(name).tobytes())
        for name, array in shard.arrays.items()
    }


def _table(path: Path) -> object:
    read = artifact.read_parquet
    if path.name == "examples.parquet":
        read = example_files.read
    elif path.name == "history.parquet" and "models" in path.parts:
        read = history.read
    table = read(path)
    return dict(table.schema), [artifact.canonical(list(map(str, row))) for row in table.rows()]


def reader(path: Path) -> tuple[str, Callable[[Path], object]] | None:
    """The kind of a file and what the workflow reads it by; None where no job reads it."""
    if UNREAD & set(path.parts) or path.suffix in UNREAD_SUFFIXES:
        return None
    if (path.parent / "model.json").is_file() and path.name in (loading.CONFIG, loading.WEIGHTS):
        return "model", _model
    if path.name == "tokenizer.json":
        return "tokenizer", _tokenizer
    kinds: dict[str, tuple[str, Callable[[Path], object]]] = {
        ".json": ("JSON", artifact.read_json), ".safetensors": ("tensors", _tensors),
        ".parquet": ("table", _table), ".h5": ("tokens", _tokens), ".zip": ("activations", _rows),
        ".svg": ("chart", svg.read),
    }  # fmt: skip
    kind, read = kinds[path.suffix]  # a file of a new kind needs a reader here
    return ("checkpoint" if "state" in path.parts and kind == "tensors" else kind), read


def metadata_of(path: Path) -> list[tuple[int, int]]:
    """Stretches of a file that say what the rest is."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if path.suffix == ".safetensors":
            return [(0, 8 + int.from_bytes(file.read(8), "little"))]
        if path.suffix == ".parquet":
            file.seek(size - 8)
            return [(size - 8 - int.from_bytes(file.read(4), "little"), size)]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            heads = [
                (part.header_offset, part.header_offset + 30 + len(part.filename))
                for part in archive.infolist()
            ]
            return [(archive.start_dir, size), *heads]
    if path.suffix == ".h5":
        return [(0, min(size, 4096)), (max(0, size - 4096), size)]
    return [(0, size)]


@dataclass
class Tally:
    """What came of damage to files of one kind."""

    named: int = 0
    without_effect: int = 0
    silent: list[str] = field(default_factory=list)

    def count(self, path: Path, what: str, read: Callable[[Path], object], before: object) -> None:
        try:
            found = read(path)
        except UserError as error:
            told = str(error)
            if "\n" in told or str(path.parent) not in told:
                self.silent.append(f"{path}: {what}: said only: {told}")
            self.named += 1
        except BaseException as error:
            self.silent.append(f"{path}: {what}: {type(error).__name__}: {error}")
        else:
            if found == before:
                self.without_effect += 1
            else:
                self.silent.append(f"{path}: {what}: read as if it were whole")


def _bit(path: Path, random: np.random.Generator) -> tuple[int, int]:
    """A byte and a bit of it, in the metadata two times of three."""
    stretches = metadata_of(path)
    first, last = stretches[int(random.integers(len(stretches)))]
    if random.random() > 2 / 3:
        first, last = 0, path.stat().st_size
    return int(random.integers(first, last)), int(random.integers(8))


def damage(folder: Path, flips: int, cuts: int, seed: int) -> dict[str, dict[str, Tally]]:
    """Damage the files of a folder one by one, each kind as often as any other; tallies by kind."""
    random = np.random.default_rng(seed)
    by_kind: dict[str, list[tuple[Path, Callable[[Path], object]]]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found = reader(path)
        if found and path.stat().st_size:
            by_kind.setdefault(found[0], []).append((path, found[1]))
    told: dict[str, dict[str, Tally]] = {}
    for kind, files in by_kind.items():
        told[kind] = {"flips": Tally(), "cuts": Tally()}
        before: dict[Path, Any] = {}
        for way, times in (("flips", flips), ("cuts", cuts)):
            for _ in range(-(-times // len(by_kind))):
                path, read = files[int(random.integers(len(files)))]
                if path not in before:
                    before[path] = read(path)
                content = path.read_bytes()
                if way == "flips":
                    place, bit = _bit(path, random)
                    what = f"bit {bit} of byte {place}"
                    data = bytearray(content)
                    data[place] ^= 1 << bit
                else:
                    size = int(random.integers(len(content)))
                    what, data = f"cut to {size} of {len(content)} bytes", content[:size]
                path.write_bytes(data)
                try:
                    told[kind][way].count(path, what, read, before[path])
                finally:
                    path.write_bytes(content)
    return told


def shown(told: dict[str, dict[str, Tally]]) -> str:
    """A table of tallies."""
    lines = [f"{'kind':12} {'damage':7} {'named':>6} {'without effect':>15} {'silent':>7}"]
    lines += [
        f"{kind:12} {way:7} {tally.named:6} {tally.without_effect:15} {len(tally.silent):7}"
        for kind, ways in told.items() for way, tally in ways.items()
    ]  # fmt: skip
    return "\n".join(lines)
