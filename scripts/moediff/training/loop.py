"""Train a language model on token shards: a loop of ours, resumed exactly (docs/decisions.md says why)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.core import artifact, checkpoint
from moediff.core.errors import DamagedError, Diverged, UserError
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
    strictly, and the finished model is the one of an uninterrupted run, bit for bit on CPU.
    Of the steps of `keep`, which are measured too, the weights stay in `state` for `take_kept`. A plan of
    no sequences leaves it as it is. Several `ranks` share each batch, and `sharded` also the model: losses
    are those of one process to rounding, and a run may be taken up by another number of ranks. Raises
    Diverged when the loss is no longer finite.
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
    step = Step(model, plan, device, ranks, sharded)
    history, first = _resume(state, model, step, keep)
    marks = _marks(steps, plan.evaluations) | set(keep)
    sums = LossSums(data.domains)
    batch_tokens = plan.batch * data.tokens.shape[1]
    progress = Progress(
        steps * batch_tokens, name, "tokens", first * batch_tokens, shown=ranks.leads
    )
    for number, rows in enumerate(batch_order(plan, len(data))):
        if number < first:
            continue
        rate = plan.learning_rate(number, steps)
        loss, router_losses = step.take(data, rows, rate)
        sums.add(loss, data, step.mine(rows), router_losses)
        done = number + 1
        if done in marks:
            history += schedule_rows(done, done * batch_tokens, rate)
            history += sums.over(ranks).rows(done, TRAIN)
            measured = evaluate(
                model, validation, device, step.precision, plan.router_losses, ranks=ranks
            )
            history += measured.rows(done, VALIDATION)
            _refuse_divergence(measured, name, done)
            log.info("%s: step %d of %d, validation cross-entropy %.4f", name, done, steps,
                     measured.cross_entropies()[ALL])  # fmt: skip
            sums = LossSums(data.domains)
            tensors = checkpoint.state_of(model, step.optimizers)
            if ranks.leads:
                _write(state, done, tensors, done in keep, history, plan)
            ranks.wait()
        progress.advance(batch_tokens)
    progress.close()
    return pl.DataFrame(history, schema=COLUMNS)


def _write(
    state: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    keep: bool,
    history: list[dict[str, Any]],
    plan: Plan,
) -> None:
    """The checkpoint of a step, and before it the weights that stay."""
    if keep:
        weights = {
            name.removeprefix("model/"): value
            for name, value in tensors.items()
            if name.startswith("model/")
        }
        artifact.write_tensors(_kept(state, step), weights, artifact.made_by("models", step=step))
    checkpoint.save(state, step, tensors, {"history": history, "optimizer": plan.optimizer})


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


def _resume(
    state: Path, model: nn.Module, step: Step, keep: Sequence[int]
) -> tuple[list[dict[str, Any]], int]:
    """Restore the newest whole checkpoint of `state`; history and steps done.

    A run that should have kept weights before it, and has not, begins anew. Raises UserError where it is of
    another optimizer.
    """
    newest = checkpoint.newest(state)
    if newest is None:
        return [], 0
    tensors, metadata = newest
    found, wanted = metadata.get("optimizer", "adamw"), step.plan.optimizer  # it went unsaid before
    if found != wanted:
        raise UserError(
            f"{state}: its checkpoints are of the optimizer {found}, this run's is {wanted}; remove the "
            f"folder to begin anew, or set training.optimizer to {found}"
        )
    if not _all_kept(state, keep, metadata["step"]):
        log.info("begins anew: the weights of a step of training.keep are not there")
        return [], 0
    checkpoint.restore(model, step.optimizers, tensors)
    log.info("resumed after step %d", metadata["step"])
    return metadata["history"], metadata["step"]
