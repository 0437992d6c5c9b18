"""What a whole fitting job costs beyond its steps: several dictionaries in one job, and its checkpoints.

    python benchmarks/fit_job.py results/local-text/activations/moe/seed-0 [--rows 300000] [--pairs 3]

Several folders give dictionaries over several sources. First four recipes (other k, width, rule, seed)
fitted in one job from one stream, against the four one after the other, alternating; their bytes must
be equal. Then the share of a fit's time that went into checkpoints: those on the way, and the last.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import yaml

from moediff.activations.rows import AlignedRows
from moediff.config.schema import defaults
from moediff.core import checkpoint
from moediff.dictionaries.fitting import Job, fit_all

CPU = torch.device("cpu")
SWEEP = (
    {"features": 4096, "k": 16},
    {"features": 4096, "k": 32},
    {"features": 2048, "k": 16},
    {"features": 4096, "k": 16, "select": "topk"},
)


def jobs_of(recipe: dict, folder: str) -> list[Job]:
    """The four dictionaries of the sweep; the last two of another seed."""
    return [
        Job(f"number {n}", recipe | change, seed=n // 2, state=Path(folder) / str(n))
        for n, change in enumerate(SWEEP)
    ]


def timed(data: AlignedRows, groups: list[list[Job]]) -> tuple[float, list[dict]]:
    """Seconds of fitting the jobs of each group together, and the tensors of every dictionary."""
    start, found = time.perf_counter(), {}
    for group in groups:
        for job, fitted in fit_all(data, group, CPU):
            found[job.name] = fitted.dictionary.state_dict()
    return time.perf_counter() - start, [found[name] for name in sorted(found)]


def sweep(data: AlignedRows, recipe: dict, pairs: int) -> None:
    """Time of the sweep in one job over that of its dictionaries in turn, and whether bytes agree."""
    ratios = []
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            together, shared = timed(data, [jobs_of(recipe, one)])
            apart, single = timed(data, [[job] for job in jobs_of(recipe, other)])
        ratios.append(together / apart)
        for mine, its in zip(shared, single, strict=True):
            assert all(torch.equal(mine[name], its[name]) for name in its), "bytes differ"
    print(f"four in one job over four in turn: {statistics.median(ratios):.3f} "
          f"({min(ratios):.3f} to {max(ratios):.3f}), the same bytes", flush=True)  # fmt: skip


def checkpoints(data: AlignedRows, recipe: dict) -> None:
    """Seconds of each checkpoint of one fit as a share of the whole."""
    seconds: list[float] = []
    save = checkpoint.save

    def timed_save(*given) -> None:
        start = time.perf_counter()
        save(*given)
        seconds.append(time.perf_counter() - start)

    checkpoint.save = timed_save
    with tempfile.TemporaryDirectory() as folder:
        whole, _ = timed(data, [jobs_of(recipe, folder)[:1]])
    checkpoint.save = save
    print(f"{len(seconds)} checkpoints in {whole:.1f} s: {sum(seconds[:-1]) / whole:.2%} on the way, "
          f"{seconds[-1] / whole:.2%} the last")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="activations: fit/ in each")
    parser.add_argument("--rows", type=int, default=300_000, help="of a dictionary of the sweep")
    parser.add_argument("--long", type=int, default=6_000_000, help="rows of the fit that is timed")
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    data = AlignedRows([sorted((f / "fit").glob("*.zarr.zip")) for f in arguments.folders])
    schema = Path(__file__).parent.parent / "config" / "schema.yaml"
    recipe = defaults(yaml.safe_load(schema.read_text(encoding="utf-8")), "recipe")
    sweep(data, recipe | {"rows": arguments.rows}, arguments.pairs)
    checkpoints(data, recipe | {"rows": arguments.long})


if __name__ == "__main__":
    main()
