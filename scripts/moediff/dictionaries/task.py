"""All of one job that fits dictionaries, in plain values that ranks can be sent, and what it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moediff.activations.rows import AlignedRows
from moediff.core import artifact, checkpoint
from moediff.core.device import pick_device
from moediff.core.progress import log
from moediff.core.ranks import Ranks
from moediff.dictionaries import fitting


@dataclass(frozen=True)
class Task:
    """Paths are strings, `state` that of all checkpoints."""

    rows: Sequence[str]  # shards, source after source
    points: Sequence[str | None]  # of each source its hook point and its view
    views: Sequence[str | None]
    sources: Sequence[str]
    fits: Sequence[Mapping[str, Any]]  # name, seed and recipe of each dictionary
    outputs: Sequence[str]  # of each its file, the early one's and the history's
    device: str
    state: str
    version: int
    split: bool = False  # ranks share the features of each dictionary, not the rows of each batch


def run(task: Task, *, ranks: Ranks) -> None:
    """Fit the task's dictionaries and write each when it is done."""
    rows = AlignedRows.of(task.rows, task.points, task.views)
    device = pick_device(task.device)
    outputs = iter(task.outputs)
    jobs: dict[str, tuple[fitting.Job, list[str], dict[str, Any]]] = {}
    for wanted in task.fits:
        name, seed = wanted["name"], wanted["seed"]
        known = {
            "sources": list(task.sources),
            "origins": rows.origins,
            "rows": rows.digest,
            "recipe": dict(wanted["recipe"]),
            "seed": seed,
        }
        key = name, known, task.version, device.type
        state = checkpoint.folder(Path(task.state), "dictionary", *key)
        made = fitting.Job(f"{name}, seed {seed}", wanted["recipe"], seed, state)
        files = [next(outputs) for _ in range(3)]
        jobs[made.name] = made, files, artifact.made_by("dictionaries", **known)
    each = [job for job, *_ in jobs.values()]
    for made, fitted in fitting.fit_all(rows, each, device, ranks, task.split):
        _, files, facts = jobs[made.name]
        _write(fitted, files, facts, made.name, ranks)
        ranks.wait()


def _write(
    fitted: fitting.Fitted, files: Sequence[str], facts: Mapping[str, Any], name: str, ranks: Ranks
) -> None:
    dictionary, early, history = files
    if ranks.leads or fitted.dictionary.part is not None:
        fitted.dictionary.save(dictionary, facts)
        fitted.early.save(early, facts)
    if not ranks.leads:
        return
    artifact.write_parquet(history, fitted.history, facts)
    last = fitted.history.row(-1, named=True)
    log.info("%s: fve %.4f in training, %.1f %% dead", name, last["fve"], 100 * last["dead_share"])
