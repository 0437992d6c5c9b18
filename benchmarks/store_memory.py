"""Peak memory of shuffling and holding out rows, by the number of rows in the store (Linux).

    python benchmarks/store_memory.py [--rows 1000000 8000000] [--width 64] [--shard-rows 125000]

Each store is written and read in processes of their own: shards of one size, more of them. The figure of
reading is the peak over an epoch of shuffled batches, the choice of held-out documents and the
moments; that of writing is the peak over all shards.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from read_speed import write_store

from moediff.activations.rows import AlignedRows


def peak() -> float:
    """The most memory that this process had, in MB."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", text).group(1)) / 1024


def read(folder: Path) -> None:
    data = AlignedRows([sorted(folder.glob("*.zarr.zip"))])
    data.moments()
    held_out = data.held_out(65_536, 0)
    seen = 0
    for (rows,) in data.shuffled(~held_out, 2048, 64, 0):
        seen += len(rows)
        if seen >= data.count - held_out.count:
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000, 8_000_000])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--shard-rows", type=int, default=125_000)
    parser.add_argument("--one", nargs=2, help="write or read, and a folder: in this process")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.one:
        step, folder = arguments.one[0], Path(arguments.one[1])
        (rows,) = arguments.rows
        if step == "write":
            write_store(folder, rows, rows // arguments.shard_rows, arguments.width)
        else:
            read(folder)
        print(peak())
        return
    for rows in arguments.rows:
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for step in ("write", "read"):
                command = [
                    sys.executable, __file__, "--rows", str(rows), "--width", str(arguments.width),
                    "--shard-rows", str(arguments.shard_rows), "--one", step, folder,
                ]  # fmt: skip
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found[step] = float(out)
        print(f"{rows:,} rows: writing {found['write']:.0f} MB, reading {found['read']:.0f} MB",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
