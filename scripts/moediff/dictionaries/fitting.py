"""Fit dictionaries on activation shards, several from one stream of rows: checkpoints, thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from moediff.activations.chunks import Selection
from moediff.activations.rows import AlignedRows
from moediff.config.recipes import STREAM, normalisation
from moediff.core import artifact, checkpoint
from moediff.core.errors import DamagedError, Diverged
from moediff.core.preemption import Preempted, whole_step
from moediff.core.progress import Progress, log
from moediff.core.ranks import ALONE, Ranks
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.normalising import NORMALISERS, Centres, Normaliser
from moediff.dictionaries.parts import Part
from moediff.dictionaries.trainer import Fitter

HISTORY = {
    "step": pl.Int64,
    "rows": pl.Int64,
    "fve": pl.Float64,
    "l0": pl.Float64,
    "dead_share": pl.Float64,
    "learning_rate": pl.Float64,
}
HISTORY_ROWS = 100  # at most: a row sums the steps since the one before
SUMS = ("error", "total", "active", "rows")
MOST_HELD_OUT = 65_536  # rows kept out for the thresholds, where a recipe leaves the number open
# The dictionary as it is after this share of the steps is kept beside the one at the end: what differs
# between the two had not settled.
EARLY = 0.75

# What rows are normalised by, and mean and total variance of each source as it is then.
Standards = tuple[Normaliser, Centres]


@dataclass(frozen=True)
class Job:
    """One dictionary to fit."""

    name: str  # in logs and errors
    recipe: Mapping[str, Any]
    seed: int  # of the weights; the order of rows is the recipe's data_seed
    state: Path  # folder of its checkpoints


@dataclass(frozen=True)
class Fitted:
    """What a job made."""

    dictionary: Dictionary
    history: pl.DataFrame
    early: Dictionary  # as it was after EARLY of the run


def early_path(job: Job) -> Path:
    """Where a run keeps its dictionary of after EARLY of the steps, until the end."""
    return job.state / "early.safetensors"


class Run:
    """A job under way: its fitter, its history, its place in the stream."""

    def __init__(
        self,
        job: Job,
        data: AlignedRows,
        standards: Standards,
        device: torch.device,
        ranks: Ranks = ALONE,
        split: bool = False,
    ) -> None:
        self.job, self.ranks = job, ranks
        parted = split and ranks.count > 1
        self.part = Part(Shape.of(job.recipe, data.widths), ranks) if parted else None
        self.dictionary = begun(job.recipe, data.widths, standards, job.seed, self.part).to(device)
        self.fitter = Fitter(self.dictionary, job.recipe, ranks)
        self.history: list[dict[str, Any]] = []
        self.sums = dict.fromkeys(SUMS, 0.0)
        self.window = max(
            1, self.fitter.steps // HISTORY_ROWS
        )  # steps between points of the history
        self.early = max(1, round(EARLY * self.fitter.steps))
        self.pace, self.saved = checkpoint.Pace(), 0
        saved = checkpoint.newest(job.state)
        if saved is not None and self._early_kept(saved[1]["step"]):
            tensors, metadata = saved
            tensors = tensors if self.part is None else self.part.own(tensors)
            self.fitter.restore(tensors, metadata["step"])
            self.history = metadata["history"]
            self.sums = metadata.get("sums", self.sums)
            self.saved = self.fitter.step
            log.info("%s: resumed after step %d", job.name, self.fitter.step)

    def _early_kept(self, step: int) -> bool:
        """Whether what a run up to `step` has to show for EARLY of it is there."""
        if step < self.early:
            return True
        try:
            Dictionary.load(early_path(self.job), self.part)
        except (DamagedError, FileNotFoundError):
            log.info("%s: begins anew, its early dictionary is not whole", self.job.name)
            return False
        return True

    @property
    def position(self) -> int:
        """Rows seen."""
        return self.fitter.step * self.job.recipe["batch"]

    @property
    def total(self) -> int:
        """Rows of the whole run."""
        return self.fitter.steps * self.job.recipe["batch"]

    @property
    def finished(self) -> bool:
        return self.fitter.step >= self.fitter.steps

    def step(self, sources: Sequence[torch.Tensor]) -> int:
        """One step on a batch of activations, which ranks share by rows or by features; the rows it had.
        Raises Diverged."""
        device, size = self.fitter.silent.device, len(sources[0])
        own = slice(*self.fitter.sharing.rows.bounds(size))
        rows = self.dictionary.standardise([part[own].to(device) for part in sources])
        measured = self.fitter.update(rows)
        self.sums = {key: value + measured[key] for key, value in self.sums.items()}
        if self.fitter.step == self.early:
            early = self._thresholded()
            if self.ranks.leads or self.part is not None:
                early.save(early_path(self.job), artifact.made_by("dictionaries"))
            self.ranks.wait()
        if self.fitter.step % self.window == 0 or self.finished:
            self._note()
            if self.finished or self.ranks.any(self.pace.due()):
                self.save()
        return size

    def _note(self) -> None:
        """A point of the history: sums since the last one."""
        sums, fitter = self.sums, self.fitter
        if not np.isfinite(sums["error"]):
            raise Diverged(f"{self.job.name}: the error is no longer finite; lower the recipe's lr")
        self.history.append(
            {
                "step": fitter.step,
                "rows": self.position,
                "fve": 1 - sums["error"] / sums["total"],
                "l0": sums["active"] / sums["rows"],
                "dead_share": fitter.dead_share(),
                "learning_rate": fitter.learning_rate(fitter.step - 1),
            }
        )
        self.sums = dict.fromkeys(SUMS, 0.0)

    def save(self) -> None:
        """A checkpoint after the last step, unless there is one."""
        step = self.fitter.step
        if step == self.saved:
            return
        facts = {"name": self.job.name, "history": self.history, "sums": self.sums}
        state = self.fitter.state()
        with self.pace.writing():
            if self.ranks.leads:
                how: dict[str, Any] = {} if self.part is None else {"write": self.part.write}
                checkpoint.save(self.job.state, step, state, facts, **how)
            elif self.part is not None:
                self.part.give(state)
            self.ranks.wait()
        self.saved = step

    def _thresholded(self) -> Dictionary:
        """The dictionary as it is, with its thresholds where the rule learns them."""
        learned = self.fitter.rule.thresholds()
        if learned is not None:
            self.dictionary.threshold.copy_(torch.as_tensor(learned))
        return self.dictionary

    def result(self, data: AlignedRows, held_out: Selection) -> Fitted:
        """What the run made, ready to use."""
        violations = self.ranks.total(self.fitter.violations)
        if violations:
            log.warning("%s: screening missed its bound %d times; set screen: false and report it",
                        self.job.name, violations)  # fmt: skip
        learned = self.fitter.rule.thresholds() is not None
        early, _ = Dictionary.load(early_path(self.job), self.part)
        dictionaries = [self._thresholded(), early.to(self.dictionary.mean.device)]
        if not learned:
            k, batch = self.job.recipe["k"], self.job.recipe["batch"]
            for dictionary in dictionaries:
                dictionary.threshold.fill_(exact_threshold(dictionary, data, held_out, k, batch))
        history = pl.DataFrame(self.history, schema=HISTORY)
        return Fitted(dictionaries[0].requires_grad_(False), history, dictionaries[1])


def fit(
    data: AlignedRows,
    recipe: Mapping[str, Any],
    seed: int,
    state: Path,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> tuple[Dictionary, pl.DataFrame]:
    """Fit one dictionary, and its history; as `fit_all`."""
    ((_, fitted),) = fit_all(data, [Job("dictionary", recipe, seed, state)], device, ranks)
    return fitted.dictionary, fitted.history


def fit_all(
    data: AlignedRows,
    jobs: Iterable[Job],
    device: torch.device,
    ranks: Ranks = ALONE,
    split: bool = False,
) -> Iterator[tuple[Job, Fitted]]:
    """Fit dictionaries on the fit split; each job with what it made.

    Jobs that agree in STREAM share one pass over the rows. Each dictionary is the one that it would
    be alone, byte for byte on CPU. Whole groups of documents are kept out of the gradient for the thresholds.
    A job that was killed goes on from its newest whole checkpoint and ends with the same bytes, one that
    was told to end from the step that it was at; a finished one is taken as it is. Several `ranks` share
    each batch, or, where they are to `split` dictionaries, the features of each, of which every rank then has
    its `Part`: what is fitted is that of one process to rounding, and a run may be taken up by another number
    of ranks, which share in the other way too. Raises Diverged once all others are done.
    """
    streams: dict[tuple, list[Job]] = {}
    for job in jobs:
        streams.setdefault(tuple(job.recipe[key] for key in STREAM), []).append(job)
    standards: dict[str, Standards] = {}  # by normalisation, each one pass over the rows
    failed: list[Diverged] = []
    for members in streams.values():
        recipe = members[0].recipe
        wanted = recipe["threshold_rows"] or min(data.count // 8, MOST_HELD_OUT)
        held_out = data.held_out(wanted, recipe["data_seed"])
        for job in members:
            name = normalisation(job.recipe)
            if name not in standards:
                standards[name] = NORMALISERS[name].fitted(data)
        runs = [
            Run(job, data, standards[normalisation(job.recipe)], device, ranks, split)
            for job in members
        ]
        failed += _run_stream(data, runs, held_out, ranks)
        for run in runs:
            if run.finished:
                yield run.job, run.result(data, held_out)
    if failed:
        raise failed[0]


def _run_stream(
    data: AlignedRows, runs: Sequence[Run], held_out: Selection, ranks: Ranks
) -> list[Diverged]:
    """Bring runs to their end on one stream of rows; those that diverged are left where they were."""
    left = [run for run in runs if not run.finished]
    if not left:
        return []
    recipe, first = left[0].job.recipe, min(run.position for run in left)
    cutters = [data.cutter(run.job.recipe["batch"], run.position - first) for run in left]
    name = left[0].job.name if len(left) == 1 else f"{len(left)} dictionaries"
    done = sum(run.position for run in left)
    total = sum(run.total for run in left)
    progress = Progress(total, name, "rows", done, shown=ranks.leads)
    failed: dict[Run, Diverged] = {}
    pools = data.pools(~held_out, recipe["pool_chunks"], recipe["data_seed"], first)
    with closing(pools), _saved_when_told_to_end(left, failed), ranks.holding_signals():
        while any(not run.finished and run not in failed for run in left):
            pool = next(pools)
            for run, cutter in zip(left, cutters, strict=True):
                if run in failed or run.finished:
                    continue
                try:
                    for batch in cutter.cut(pool):
                        with whole_step():
                            progress.advance(run.step(batch))
                        ranks.leave_together()
                        if run.finished:
                            break
                except Diverged as error:
                    failed[run] = error
    progress.close()
    return list(failed.values())


@contextmanager
def _saved_when_told_to_end(runs: Sequence[Run], failed: Mapping[Run, Diverged]) -> Iterator[None]:
    """Each run keeps the step that it is at; one that diverged has nothing to go on from."""
    try:
        yield
    except Preempted:
        for run in runs:
            if run not in failed:
                run.save()
        raise


# Name in a recipe -> square of the unit of a source's activations, of their total variance and their width.
SCALES: dict[str, Callable[[float, int], float]] = {
    "total": lambda variance, width: variance,  # the total variance becomes 1 (decision 3)
    "width": lambda variance, width: variance / width,  # it becomes the width
    "none": lambda variance, width: 1.0,  # it stays
}


def begun(
    recipe: Mapping[str, Any],
    widths: Sequence[int],
    standards: Standards,
    seed: int,
    part: Part | None = None,
) -> Dictionary:
    """A recipe's dictionary, or a part of it, before its first step: with what rows are normalised by, their
    mean over the fit rows, and the unit of each source by a name of SCALES."""
    normaliser, centres = standards
    dictionary = Dictionary(Shape.of(recipe, widths), seed, recipe["start"], normaliser, part)
    dictionary.mean.copy_(torch.from_numpy(np.concatenate([mean for mean, _ in centres])))
    for source, (mean, variance) in enumerate(centres):
        dictionary.scale[source] = SCALES[recipe["scale"]](variance, len(mean)) ** 0.5
    return dictionary


@torch.no_grad()
def exact_threshold(
    dictionary: Dictionary, data: AlignedRows, held_out: Selection, k: int, batch: int
) -> float:
    """The (k * rows)-th largest score over the held-out rows: they then fire k features on average.

    Where ranks hold parts of the dictionary, all of them must ask: it is that of all features.

    Streamed: at most twice as many scores are kept, and what a batch has. Sorted out are they only
    when there are so many, since that costs more than to find them.
    """
    most, floor = k * held_out.count, 0.0
    largest = torch.empty(0)
    for sources in data.selected(held_out, batch):
        rows = dictionary.standardise(sources)
        scores, _ = dictionary.score(rows)
        largest = torch.cat([largest, scores.at_least(floor)[1].cpu()])
        if len(largest) > 2 * most:
            largest = largest.topk(most, sorted=False).values
            floor = float(largest.min())
    if dictionary.part is not None:
        own = largest.topk(min(most, len(largest)), sorted=False).values
        found = dictionary.part.ranks.gathered(own.to(dictionary.mean.device))
        largest = torch.cat(found).cpu()
    if len(largest) > most:
        largest = largest.topk(most, sorted=False).values
    return float(largest.min()) if len(largest) else 0.0
