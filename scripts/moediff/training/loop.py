"""Train a language model on token shards: a loop of ours, resumed exactly (docs/decisions.md says why)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn
from transformers import PreTrainedModel

from moediff.core import artifact, checkpoint
from moediff.core.errors import DamagedError, Diverged, UserError
from moediff.core.preemption import Preempted, whole_step
from moediff.core.progress import Progress, log
from moediff.core.ranks import ALONE, Ranks
from moediff.corpus.token_shards import TokenSplit
from moediff.training.history import ALL, COLUMNS, TRAIN, VALIDATION, schedule_rows
from moediff.training.loss_sums import LossSums, evaluate
from moediff.training.plan import Plan, batch_order
from moediff.training.step import Step


def train(
    model: PreTrainedModel,
    plan: Plan,
    data: TokenSplit,
    validation: TokenSplit,
    state: Path,
    device: torch.device,
    name: str = "training",
    keep: Sequence[int] = (),
    ranks: Ranks = ALONE,
    sharded: bool = False,
) -> pl.DataFrame:
    """Train `model` in place, from the weights that it has, and return its history (`history.COLUMNS`).

    Checkpoints go to `state`, whole or ignored; the newest is taken up with every tensor restored
    strictly, and the finished model is the one of an uninterrupted run, bit for bit on CPU. A run that is
    told to end saves the step that it is at. Of the steps of `keep`, which are measured too, the weights
    stay in `state` for `take_kept`. A plan of no sequences leaves it as it is. Several `ranks` share each
    batch, and `sharded` also the model: losses are those of one process to rounding, and a run may be taken
    up by another number of ranks. Raises Diverged when the loss is no longer finite.
    """
    steps = plan.steps(len(data))
    if plan.sequences == 0:
        return _untrained(model, plan, validation, device)
    if steps == 0:
        raise UserError(
            f"training.batch: {plan.batch} sequences are more than the train split's "
            f"{plan.used(len(data))}"
        )
    if wrong := [number for number in keep if not 0 < number < steps]:
        raise UserError(
            f"training.keep: {name} has no step {wrong[0]} on its way, but {steps} steps"
        )
    taker = Step(model, plan, device, ranks, sharded)
    run = _Run(taker, data, validation, state, name, keep)
    run.resume()
    batch_tokens = run.batch_tokens
    progress = Progress(
        steps * batch_tokens, name, "tokens", run.done * batch_tokens, shown=ranks.leads
    )
    try:
        with ranks.holding_signals():
            run.measure_if_due()  # what was told to end between a step and its measuring
            for rows in islice(batch_order(plan, len(data)), run.done, None):
                with whole_step():
                    run.step(rows)
                run.measure_if_due()
                ranks.leave_together()
                progress.advance(batch_tokens)
    except Preempted:
        if run.done > run.saved:
            run.save()
        raise
    progress.close()
    return pl.DataFrame(run.history, schema=COLUMNS)


class _Run:
    """A run under way: its model and optimizers, the steps done, its history and the sums since."""

    def __init__(
        self,
        taker: Step,
        data: TokenSplit,
        validation: TokenSplit,
        state: Path,
        name: str,
        keep: Sequence[int],
    ) -> None:
        self.taker, self.data, self.validation = taker, data, validation
        self.state, self.name, self.keep = state, name, keep
        self.model, self.plan, self.ranks = taker.model, taker.plan, taker.ranks
        self.steps = self.plan.steps(len(data))
        self.batch_tokens = self.plan.batch * data.tokens.shape[1]
        self.marks = _marks(self.steps, self.plan.evaluations) | set(keep)
        self.history: list[dict[str, Any]] = []
        self.sums = LossSums(data.domains)
        self.done = self.saved = 0
        self.pace = checkpoint.Pace()

    def step(self, rows: np.ndarray) -> None:
        """One step over the sequences `rows`, and a checkpoint where one is due."""
        rate = self.plan.learning_rate(self.done, self.steps)
        loss, router_losses = self.taker.take(self.data, rows, rate)
        self.sums.add(loss, self.data, self.taker.mine(rows), router_losses)
        self.done += 1
        # At a mark one is written anyway.
        if self.ranks.any(self.pace.due()) and self.done not in self.marks:
            self.save()

    def measure_if_due(self) -> None:
        """At a mark that is not measured yet: the losses there, the weights if they are kept, a checkpoint.

        Raises Diverged.
        """
        done = self.done
        if done not in self.marks or not self.sums.batches:
            return
        measured = evaluate(
            self.model, self.validation, self.taker.device, self.taker.precision,
            self.plan.router_losses, ranks=self.ranks,
        )  # fmt: skip
        _refuse_divergence(measured, self.name, done)
        log.info("%s: step %d of %d, validation cross-entropy %.4f", self.name, done, self.steps,
                 measured.cross_entropies()[ALL])  # fmt: skip
        with whole_step():
            rate = self.plan.learning_rate(done - 1, self.steps)
            self.history += schedule_rows(done, done * self.batch_tokens, rate)
            self.history += self.sums.over(self.ranks).rows(done, TRAIN)
            self.history += measured.rows(done, VALIDATION)
            self.sums = LossSums(self.data.domains)
            self.save(kept=done in self.keep)

    def save(self, kept: bool = False) -> None:
        """A checkpoint after the last step; before it, where they are `kept`, the weights that stay."""
        tensors = checkpoint.state_of(self.model, self.taker.optimizers)
        facts = {
            "name": self.name,  # for who watches the run
            "history": self.history,
            "optimizer": self.plan.optimizer,
            "sums": self.sums.over(self.ranks).state(),
        }
        with self.pace.writing():
            if self.ranks.leads:
                if kept:
                    made_by = artifact.made_by("models", step=self.done)
                    weights = checkpoint.weights_of(tensors)
                    artifact.write_tensors(_kept(self.state, self.done), weights, made_by)
                checkpoint.save(self.state, self.done, tensors, facts)
            self.ranks.wait()
        self.saved = self.done

    def resume(self) -> None:
        """Take up the newest whole checkpoint.

        A run that should have kept weights before it, and has not, begins anew. Raises UserError where it is
        of another optimizer.
        """
        newest = checkpoint.newest(self.state)
        if newest is None:
            return
        tensors, metadata = newest
        found = metadata.get("optimizer", "adamw")  # it went unsaid before
        if found != self.plan.optimizer:
            raise UserError(
                f"{self.state}: its checkpoints are of the optimizer {found}, this run's is "
                f"{self.plan.optimizer}; remove the folder to begin anew, or set training.optimizer to "
                f"{found}"
            )
        done, sums = metadata["step"], LossSums.of(self.data.domains, metadata.get("sums"))
        measured = done - bool(sums.batches)  # what was kept up to there was measured
        if not _all_kept(self.state, self.keep, measured):
            log.info("begins anew: the weights of a step of training.keep are not there")
            return
        checkpoint.restore(self.model, self.taker.optimizers, tensors)
        log.info("resumed after step %d", done)
        self.history = metadata["history"]
        self.sums = sums if self.ranks.leads else sums.without_tokens()
        self.done = self.saved = done


def _kept(state: Path, step: int) -> Path:
    """Where the weights after a step stay."""
    return state / f"kept-{step:09d}.safetensors"


def take_kept(model: nn.Module, state: Path, step: int) -> None:
    """Give `model` the weights that `train` kept after a step."""
    tensors, _ = artifact.read_tensors(_kept(state, step))
    model.load_state_dict(tensors, strict=True)


def _all_kept(state: Path, keep: Sequence[int], done: int) -> bool:
    """Whether a run that has `done` steps has kept what it should have by then."""
    try:
        for step in keep:
            if step <= done:
                artifact.read_tensors(_kept(state, step))
    except (DamagedError, FileNotFoundError):
        return False
    return True


def _untrained(
    model: PreTrainedModel, plan: Plan, validation: TokenSplit, device: torch.device
) -> pl.DataFrame:
    """The history of a model that is left as it began: one point, before any step."""
    model.to(device)  # type: ignore[arg-type]  # transformers hides self
    measured = evaluate(model, validation, device, torch.float32, plan.router_losses)
    rows = schedule_rows(0, 0, 0.0) + measured.rows(0, VALIDATION)
    return pl.DataFrame(rows, schema=COLUMNS)


def _marks(steps: int, points: int) -> set[int]:
    """At most `points` steps, evenly spread, the last among them."""
    return {round(steps * (i + 1) / points) for i in range(points)} - {0}


def _refuse_divergence(measured: LossSums, name: str, step: int) -> None:
    if not np.isfinite(measured.loss).all():
        raise Diverged(
            f"{name}: the loss is no longer finite at step {step}; lower training.peak_lr"
        )
