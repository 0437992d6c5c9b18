"""External activations: arrays, files of them, and shards made of these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy
import safetensors.torch

from moediff.activations import external
from moediff.activations.shards import Shard
from moediff.core import artifact

COUNT, WIDTH = 300, 6


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """What another program holds: rows of documents of 10 tokens."""
    row = np.arange(COUNT)
    rows = np.random.default_rng(seed).normal(size=(COUNT, WIDTH)).astype(np.float32)
    return {"activations": rows, "token": row % 7, "document": row // 10, "position": row % 10}


def write(path: Path, values: dict[str, np.ndarray]) -> Path:
    """A safetensors file, or for a name without suffix a folder of .npy files."""
    if path.suffix:
        safetensors.numpy.save_file(values, path)
        return path
    path.mkdir()
    for name, array in values.items():
        np.save(path / f"{name}.npy", array)
    return path


def convert(
    source: Path,
    output: Path,
    dtype: str = "float32",
    domains: tuple[str, ...] = ("all",),
    name: str = "activations",
    chunk_rows: int = 64,
    first: Path | None = None,
) -> Shard:
    """The shard of one file, measured by the file `first` (itself when there is none)."""
    measured = external.measure(first or source, name, dtype)
    made_by = artifact.made_by("activations")
    external.convert(source, name, domains, dtype, chunk_rows, measured, output, made_by)
    return Shard(output)
