"""Bytes a second of reading activation rows in shuffled order, as fitting reads them.

    python benchmarks/read_speed.py [--width 768] [--rows 1000000] [--shards 8]

A store of random float16 rows is written, then read from the page cache: shuffled with default
settings (checksums, conversion to float32 and mixing included), by whole chunks without mixing, and
row by row at random places through Zarr. Batches are only taken, not used.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
import zarr
from zarr.storage import ZipStore

from moediff.activations.rows import AlignedRows
from moediff.activations.shard_writer import ShardWriter
from moediff.activations.shards import TYPES, Stored
from moediff.config.schema import defaults
from moediff.core import artifact

SCHEMA = Path(__file__).parent.parent / "config" / "schema.yaml"
CHUNK_ROWS = 1024  # activations.chunk_rows
BATCH = 2048


def write_store(
    folder: Path,
    rows: int,
    shards: int,
    width: int,
    more: Callable[[np.ndarray], dict[str, np.ndarray]] = lambda row: {},
) -> list[Path]:
    """Shards of random rows; documents have 500 rows. `more` gives further arrays of rows by their
    numbers [row]."""
    random, paths, first = np.random.default_rng(0), [], 0
    for number in range(shards):
        count = rows // shards + (number < rows % shards)
        row = np.arange(first, first + count)
        columns = {name: row.astype(kind) for name, kind in TYPES.items()}
        columns |= {
            "document": row // 500,
            "group": row // 500,
            "domain": np.zeros(count, np.uint8),
        }
        own = more(row)
        columns |= {name: own.pop(name) for name in columns.keys() & own.keys()}
        path = folder / f"{number:05d}.zarr.zip"
        writer = ShardWriter(
            path, columns, {"p": Stored("resid_post.0", width, 0)}, "float16", CHUNK_ROWS
        )
        for start in range(0, count, 4096):
            size = min(4096, count - start)
            block = random.standard_normal((size, width), np.float32)
            beside = {name: torch.from_numpy(v[start : start + size]) for name, v in own.items()}
            writer.add({"p": torch.from_numpy(block)}, beside)
        facts = {"model": "m", "domains": ["made"], "tokens": count, "left_out": {},
                 "alignment": None, "tokenizer": "made"}  # fmt: skip
        writer.write(artifact.made_by("activations") | facts)
        paths.append(path)
        first += count
    return paths


def shuffled(data: AlignedRows, pool_chunks: int, rows: int) -> float:
    """Rows a second of batches in shuffled order."""
    stream = data.shuffled(data.every(), BATCH, pool_chunks, 0)
    next(stream)
    start, seen = time.perf_counter(), 0
    while seen < rows:
        seen += len(next(stream)[0])
    elapsed = time.perf_counter() - start
    stream.close()
    return seen / elapsed


def whole_chunks(data: AlignedRows) -> float:
    """Rows a second of reading every chunk, as stored, checksums included."""
    start = time.perf_counter()
    for chunk in data.chunks:
        data.sources[0][chunk.shard].stored("p", chunk.start, chunk.stop)
    return data.count / (time.perf_counter() - start)


def row_random(paths: list[Path], rows: int = 2000) -> float:
    """Rows a second of reading single rows at random places."""
    arrays = [zarr.open_group(ZipStore(path, mode="r"), mode="r")["p"] for path in paths]
    random = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(rows):
        array = arrays[random.integers(len(arrays))]
        array[int(random.integers(array.shape[0]))]
    return rows / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    recipe = defaults(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")), "recipe")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_store(Path(folder), arguments.rows, arguments.shards, arguments.width)
        data = AlignedRows([paths])
        size = 2 * arguments.width
        for _ in range(3):
            chunks = whole_chunks(data)
            mixed = shuffled(data, recipe["pool_chunks"], 2 * arguments.rows)
            single = row_random(paths)
            print(f"shuffled {mixed * size / 1e9:.2f} GB/s of stored bytes ({mixed:,.0f} rows/s), "
                  f"chunks alone {chunks * size / 1e9:.2f} GB/s, "
                  f"{mixed / single:,.0f} times row by row ({single:,.0f} rows/s)",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
