"""What each stage of a run took: hours and memory of its jobs, by the benchmarks that Snakemake wrote.

Of each job the attempt that ended well, as long as its file is there: not what killed attempts took.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moediff.config import layout
from moediff.report import page

GIGABYTE = 1024  # of Snakemake's MB, which are of 2**20 bytes
HOUR, MINUTE = 3600, 60
TOLD = (
    "A stage is a rule, or rules that share their logs. {unit} are those of its jobs one after another, "
    "however many ran at once; of one core, what all of their processes computed. Memory is that of the "
    "largest job. Of a job that was killed and made again the attempt counts that ended well. A dash: "
    "too short to be measured."
)


def by_stage(results: Path) -> list[dict[str, Any]]:
    """A row a stage, those that took longest first: jobs, seconds of all and of one core, the longest job's
    seconds, the largest one's gigabytes. None for what no job of it was long enough for."""
    jobs: dict[str, list[dict[str, float | None]]] = defaultdict(list)
    for path in sorted(results.glob(layout.path("benchmark", job="**/*"))):
        stage, _, _ = layout.parse("benchmark", str(path))["job"].partition("/")
        jobs[stage] += _records(path)
    rows = [_row(stage, records) for stage, records in jobs.items()]
    return sorted(rows, key=lambda row: (-row["seconds"], row["stage"]))


def _records(path: Path) -> Iterator[dict[str, float | None]]:
    """The numbers of a job; None for what was not measured."""
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            yield {key: _number(row.get(key)) for key in ("s", "max_rss", "cpu_time")}


def _number(cell: str | None) -> float | None:
    try:
        return float(cell or "")
    except ValueError:  # NA, -, or a file that is cut
        return None


def _row(stage: str, records: Sequence[dict[str, float | None]]) -> dict[str, Any]:
    seconds = [record["s"] or 0.0 for record in records]
    cpu, memory = (
        [value for record in records if (value := record[key]) is not None]
        for key in ("cpu_time", "max_rss")
    )
    return {
        "stage": stage,
        "jobs": len(records),
        "seconds": sum(seconds),
        "cpu_seconds": sum(cpu) if cpu else None,
        "longest_seconds": max(seconds, default=0.0),
        "peak_gb": max(memory) / GIGABYTE if memory else None,
    }


def shown(rows: Sequence[dict[str, Any]], versions: dict[str, str]) -> str:
    """The page: a table of all stages, in hours where they took some, else in minutes; their sum above."""
    total = {key: sum(row[key] or 0 for row in rows) for key in ("jobs", "seconds", "cpu_seconds")}
    unit, size = ("hours", HOUR) if total["seconds"] >= 2 * HOUR else ("minutes", MINUTE)
    first = page.First(
        title="What each stage took",
        facts=[
            ("Jobs", [f"{total['jobs']:,}"]),
            (unit.capitalize(), [f"{total['seconds'] / size:,.1f}, of one core "
                                 f"{total['cpu_seconds'] / size:,.1f}"]),
        ],
        finding=None, warnings=[], figure=None, can_say=[], cannot_say=[],
    )  # fmt: skip

    def amount(value: float | None, size: float = size) -> float | None:
        return None if value is None else float(f"{value / size:.3g}")

    table = [
        {
            "stage": row["stage"],
            "jobs": row["jobs"],
            unit: amount(row["seconds"]),
            f"{unit} of one core": amount(row["cpu_seconds"]),
            f"longest job, {unit}": amount(row["longest_seconds"]),
            "peak memory, GB": amount(row["peak_gb"], 1),
        }
        for row in rows
    ]
    told = page.text(TOLD.format(unit=unit.capitalize()))
    return page.page(first, {"By stage, longest first": told + page.table(table)}, versions)
