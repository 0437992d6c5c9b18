"""Train a language model on token shards: a loop of ours, resumed exactly (docs/decisions.md says why)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.core import checkpoint
from moediff.core.device import pick_precision
from moediff.core.errors import Diverged, UserError
from moediff.core.progress import Progress, log
from moediff.corpus.token_shards import TokenSplit
from moediff.models.autocast import follow_autocast
from moediff.training.history import COLUMNS
from moediff.training.objectives import LossSums, autocast, evaluate, token_losses
from moediff.training.plan import Plan, batch_order
from moediff.training.router_losses import RouterTap, balance_loss, top_k_of


def train(
    model: PreTrainedModel,
    plan: Plan,
    data: TokenSplit,
    validation: TokenSplit,
    state: Path,
    device: torch.device,
    name: str = "training",
) -> pl.DataFrame:
    """Train `model` in place and return its history (columns of `histories`).

    Checkpoints go to `state`, whole or ignored; the newest is taken up with every tensor restored
    strictly, and the finished model is the one of an uninterrupted run, bit for bit on CPU.
    A plan of no sequences leaves it untrained. Raises Diverged when the loss is no longer finite.
    """
    steps = plan.steps(len(data))
    if plan.sequences == 0:
        return _untrained(model, validation, device)
    if steps == 0:
        raise UserError(
            f"training.batch: {plan.batch} sequences are more than the train split's "
            f"{plan.used(len(data))}"
        )
    precision = pick_precision(plan.precision, device)
    model.to(device).train()
    if precision != torch.float32:
        follow_autocast(model)
    optimizer = make_optimizer(model, plan)
    history, first = _resume(state, model, optimizer)
    marks = _marks(steps, plan.evaluations)
    tap = RouterTap(model)
    sums = LossSums(data.domains)
    progress = Progress(steps * plan.batch * data.tokens.shape[1], name, "tokens",
                        first * plan.batch * data.tokens.shape[1])  # fmt: skip
    for step, rows in enumerate(batch_order(plan, len(data))):
        if step < first:
            continue
        rate = plan.learning_rate(step, steps)
        loss, balance = train_step(model, optimizer, tap, plan, data, rows, rate, device, precision)
        sums.add(loss, data, rows, balance)
        done = step + 1
        if done in marks:
            at = {"step": done, "tokens": done * rows.size * data.tokens.shape[1],
                  "learning_rate": rate}  # fmt: skip
            history += sums.rows(split="train", **at)
            tap.close()
            measured = evaluate(model, validation, device, precision)
            tap = RouterTap(model)
            history += measured.rows(split="validation", **at)
            _refuse_divergence(measured, name, done)
            log.info("%s: step %d of %d, validation cross-entropy %.4f", name, done, steps,
                     measured.loss.sum() / measured.count.sum())  # fmt: skip
            sums = LossSums(data.domains)
            tensors = checkpoint.state_of(model, optimizer)
            checkpoint.save(state, done, tensors, {"history": history})
        progress.advance(rows.size * data.tokens.shape[1])
    tap.close()
    progress.close()
    return pl.DataFrame(history, schema=COLUMNS)


def _untrained(
    model: PreTrainedModel, validation: TokenSplit, device: torch.device
) -> pl.DataFrame:
    """The history of a model that is left as it was initialised: one point, before any step."""
    measured = evaluate(model.to(device), validation, device, torch.float32)
    rows = measured.rows(split="validation", step=0, tokens=0, learning_rate=0.0)
    return pl.DataFrame(rows, schema=COLUMNS)


def make_optimizer(model: nn.Module, plan: Plan) -> torch.optim.AdamW:
    """Fused AdamW; weight decay on matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": plan.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.peak_lr, betas=plan.betas, fused=True)


def train_step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    tap: RouterTap,
    plan: Plan,
    data: TokenSplit,
    rows: np.ndarray,
    rate: float,
    device: torch.device,
    precision: torch.dtype,
) -> tuple[Tensor, float]:
    """One optimizer step over the sequences `rows`; token losses and balance loss before it."""
    targets = max(1, int(data.is_target[rows].sum()))  # a batch may have no domain that is learned
    micro = plan.micro_batch or len(rows)
    losses, balance = [], 0.0
    for start in range(0, len(rows), micro):
        part = rows[start : start + micro]
        with autocast(device, precision):
            loss = token_losses(model, data, part, device)
            logits = tap.take()
        objective = loss.sum() / targets
        if logits:
            balanced = balance_loss(logits, top_k_of(model)) * (len(part) / len(rows))
            objective = objective + plan.balance * balanced
            balance += float(balanced.detach())
        objective.backward()
        losses.append(loss.detach())
    nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return torch.cat(losses), balance


def _marks(steps: int, points: int) -> set[int]:
    """At most `points` steps, evenly spread, the last among them."""
    return {round(steps * (i + 1) / points) for i in range(points)} - {0}


def _refuse_divergence(measured: LossSums, name: str, step: int) -> None:
    if not np.isfinite(measured.loss).all():
        raise Diverged(
            f"{name}: the loss is no longer finite at step {step}; lower training.peak_lr"
        )


def _resume(
    state: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[list[dict[str, Any]], int]:
    """Restore the newest whole checkpoint of `state`; history and steps done."""
    found = checkpoint.newest(state)
    if found is None:
        return [], 0
    tensors, metadata = found
    checkpoint.restore(model, optimizer, tensors)
    log.info("resumed after step %d", metadata["step"])
    return metadata["history"], metadata["step"]
