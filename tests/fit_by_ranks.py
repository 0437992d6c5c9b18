"""What ranks do that fit dictionaries in tests: a module of little, since each of them imports it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from moediff.activations.rows import AlignedRows
from moediff.core import artifact, checkpoint
from moediff.core.ranks import Ranks
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.entries import Entries
from moediff.dictionaries.fitting import Job, fit_all
from moediff.dictionaries.parts import Part
from moediff.dictionaries.scores import DenseScores, Linear
from moediff.dictionaries.selection import batch_top, row_top, row_top_of_all
from moediff.dictionaries.sharing import Sharing
from moediff.dictionaries.trainer import Fitter

CPU = torch.device("cpu")


class Case(NamedTuple):
    """One fit, and where it leaves what it makes."""

    recipe: Mapping[str, Any]
    split: bool
    folder: Path


def fit(paths: list[list[Path]], case: Case, *, ranks: Ranks) -> None:
    """What a rank does: fit, leave dictionaries, history and the bytes that it held in the case's folder."""
    torch.set_num_threads(1)
    folder, facts = case.folder, artifact.made_by("dictionaries")
    job = Job("small", case.recipe, 0, folder / "state")
    update, held = Fitter.update, {}

    def weighed(self: Fitter, rows: Tensor) -> dict[str, float]:
        found = update(self, rows)
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        held["parameters"] = sum(p.nbytes for p in self.trained.parameters())
        held["optimizer"] = sum(moment.nbytes for moment in moments)
        return found

    Fitter.update = weighed
    try:
        ((_, fitted),) = fit_all(AlignedRows(paths), [job], CPU, ranks, case.split)
    finally:
        Fitter.update = update
    if ranks.leads or case.split:
        fitted.dictionary.save(folder / "dictionary.safetensors", facts)
        fitted.early.save(folder / "early.safetensors", facts)
    (folder / f"bytes-{ranks.rank}.json").write_text(json.dumps(held))
    if ranks.leads:
        fitted.history.write_parquet(folder / "history.parquet")


def fit_each(paths: list[list[Path]], cases: Sequence[Case], folder: Path, *, ranks: Ranks) -> None:
    """What three ranks do."""
    for case in cases:
        fit(paths, case, ranks=ranks)
    for split in (False, True):
        ties(folder, split, ranks=ranks)


def fit_and_die(paths: list[list[Path]], case: Case, *, ranks: Ranks) -> None:
    """`fit`, with a checkpoint after step 46; the last rank is killed in the middle of the next."""
    select, begun = Fitter._select, [0]

    def dies(self: Fitter, rows: Tensor) -> Any:
        begun[0] = self.step
        if self.step == 46 and ranks.rank == ranks.count - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return select(self, rows)

    Fitter._select = dies
    checkpoint.Pace.due = lambda pace: begun[0] == 45
    fit(paths, case, ranks=ranks)


def ties(folder: Path, split: bool, *, ranks: Ranks) -> None:
    """Select among scores of which many are equal; each rank writes the rows and features it has."""
    rows = torch.randint(0, 3, (31, 8), generator=torch.Generator().manual_seed(0)).float()
    shape = Shape((8,), 4, 4, (0,), "norm", "summed")
    part = Part(shape, ranks) if split and ranks.count > 1 else None
    first, last = (0, 31) if part else ranks.bounds(31)
    numbers = torch.arange(8) if part is None else part.numbers
    sharing = Sharing.of(ranks, part, CPU)
    table, ones = torch.eye(8)[numbers], torch.ones(len(numbers))
    linear = [Linear(table, 0 * ones, ones, slice(0, 8), slice(0, len(numbers)))]

    def write(name: str, entries: Entries, values: Tensor) -> None:
        found = {"row": entries[0] + first, "feature": numbers[entries[1]], "value": values}
        pl.DataFrame(found).write_parquet(
            folder / f"{name}-{split}-{ranks.count}-{ranks.rank}.parquet"
        )

    for number, (count, guess) in enumerate([(40, 0.0), (40, 1.9), (7, 5.0), (31 * 8, 0.5)]):
        scores = DenseScores(rows[first:last], linear)
        write(f"batch-{number}", *batch_top(scores, count, guess, sharing))
    for k in (1, 3, 8):
        found = row_top(DenseScores(rows[first:last], linear), k)
        write(f"rows-{k}", *row_top_of_all(*found, last - first, k, sharing))
