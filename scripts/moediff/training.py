"""Train a language model on token shards: a loop of ours, resumed exactly (docs/decisions.md says why)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from moediff import checkpoint, histories
from moediff.devices import pick_precision
from moediff.errors import Diverged, UserError
from moediff.models import backbone, follow_autocast, model_inputs
from moediff.progress import Progress, log
from moediff.tokens import TokenSplit


@dataclass(frozen=True)
class Plan:
    """How one model is trained; every key as in config/schema.yaml."""

    peak_lr: float
    batch: int
    epochs: int
    warmup: float
    final_lr: float
    betas: tuple[float, float]
    weight_decay: float
    clip: float
    balance: float
    precision: str
    evaluations: int
    data_seed: int
    micro_batch: int | None = None
    sequences: int | None = None  # of the train split; None is all

    @classmethod
    def of(cls, settings: Mapping[str, Any], peak_lr: float, seed: int) -> Plan:
        """The plan of a config's `training`; without a data seed of its own the order follows `seed`."""
        known = {key: settings[key] for key in cls.__dataclass_fields__ if key in settings}
        data_seed = settings["data_seed"] if settings["data_seed"] is not None else seed
        betas = tuple(settings["betas"])
        return cls(**known | {"peak_lr": peak_lr, "data_seed": data_seed, "betas": betas})

    def steps(self, available: int) -> int:
        """Optimizer steps over `available` sequences."""
        return self.epochs * (self.used(available) // self.batch)

    def used(self, available: int) -> int:
        """Sequences of an epoch."""
        return available if self.sequences is None else min(self.sequences, available)

    def learning_rate(self, step: int, steps: int) -> float:
        """Linear warm-up, then a cosine to `final_lr` of the peak at the last step."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return self.peak_lr * (step + 1) / rising
        done = (step - rising) / max(1, steps - 1 - rising)
        return self.peak_lr * (
            self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        )


def batch_order(plan: Plan, available: int) -> Iterator[np.ndarray]:
    """Indices of the sequences of every step, fixed by the data seed; a step depends on no other."""
    used = plan.used(available)
    per_epoch = used // plan.batch
    for epoch in range(plan.epochs):
        order = np.random.default_rng([plan.data_seed, epoch]).permutation(used)
        for step in range(per_epoch):
            yield np.sort(order[step * plan.batch : (step + 1) * plan.batch])


# --- losses ----------------------------------------------------------------------------------


class RouterTap:
    """Reads the logits of every router of a model while it runs; empty for a dense model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.logits: list[Tensor] = []  # one [token, expert] a layer
        routers = [module for name, module in model.named_modules() if name.endswith(".mlp.gate")]
        self.handles = [router.register_forward_hook(self._read) for router in routers]

    def _read(self, module: nn.Module, args: tuple, output: tuple[Tensor, ...]) -> None:
        self.logits.append(output[0])

    def take(self) -> list[Tensor]:
        """The logits since the last call."""
        taken, self.logits = self.logits, []
        return taken

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def balance_loss(logits: list[Tensor], top_k: int) -> Tensor:
    """Router balance loss summed over layers: sum_l E * sum_e f_e P_e (Switch, 2101.03961, eq. 4).

    f_e is the share of tokens that have expert e among their top k (so sum_e f_e = k) and P_e the
    mean router probability. Each layer for itself: pooled over layers, opposite imbalances cancel.
    Its floor, at perfect balance, is k a layer.
    """
    total = logits[0].new_zeros((), dtype=torch.float32)
    for layer in logits:  # [token, expert]
        probability = layer.float().softmax(-1)
        chosen = probability.topk(top_k, dim=-1).indices  # [token, top_k]
        used = torch.zeros_like(probability).scatter_(1, chosen, 1.0).mean(0)
        total = total + layer.shape[-1] * (used * probability.mean(0)).sum()
    return total


def token_losses(
    model: PreTrainedModel, split: TokenSplit, rows: np.ndarray, device: Any
) -> Tensor:
    """Cross-entropy in nats of every target: [batch, position - 1]; 0 where there is no target."""
    tokens, starts, is_target = split.tokens[rows], split.starts[rows], split.is_target[rows]
    hidden = backbone(model)(**model_inputs(tokens, starts, device)).last_hidden_state
    logits = model.get_output_embeddings()(hidden[:, :-1])  # [batch, position - 1, vocabulary]
    target = torch.from_numpy(tokens[:, 1:].astype(np.int64)).to(device)
    target = target.masked_fill(~torch.from_numpy(is_target).to(device), -100)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), reduction="none")
    return loss.view(target.shape)


class LossSums:
    """Sums of token losses by domain, in float64."""

    def __init__(self, domains: tuple[str, ...]) -> None:
        self.domains = domains
        self.loss = np.zeros(len(domains))
        self.count = np.zeros(len(domains))
        self.balance = self.batches = 0.0

    def add(self, loss: Tensor, split: TokenSplit, rows: np.ndarray, balance: float) -> None:
        """Count one batch of `token_losses`."""
        target = split.is_target[rows]
        domain = split.domain[rows][:, 1:][target]
        values = loss.detach().double().cpu().numpy()[target]
        self.loss += np.bincount(domain, weights=values, minlength=len(self.domains))
        self.count += np.bincount(domain, minlength=len(self.domains))
        self.balance += balance
        self.batches += 1

    def rows(self, **columns: Any) -> list[dict[str, Any]]:
        """One row for all domains together and one for each that was seen."""
        balance = self.balance / self.batches
        sums = {"all": (self.loss.sum(), self.count.sum())}
        sums |= {
            name: (self.loss[i], self.count[i])
            for i, name in enumerate(self.domains)
            if self.count[i]
        }
        return [
            {
                **columns,
                "domain": name,
                "cross_entropy": float(loss / count),
                "balance_loss": balance,
            }
            for name, (loss, count) in sums.items()
        ]


def evaluate(
    model: PreTrainedModel, split: TokenSplit, device: Any, precision: torch.dtype, batch: int = 16
) -> LossSums:
    """Cross-entropy over a whole split, and the balance loss apart."""
    tap, top_k = RouterTap(model), top_k_of(model)
    sums = LossSums(split.domains)
    model.eval()
    with torch.no_grad(), _autocast(device, precision):
        for first in range(0, len(split), batch):
            rows = np.arange(first, min(first + batch, len(split)))
            loss = token_losses(model, split, rows, device)
            logits = tap.take()
            balance = float(balance_loss(logits, top_k)) if logits else 0.0
            sums.add(loss, split, rows, balance)
    model.train()
    tap.close()
    return sums


def top_k_of(model: PreTrainedModel) -> int:
    """Experts that a token uses (1 for a dense model)."""
    return getattr(model.config, "num_experts_per_tok", 1)


def _autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)


# --- the loop --------------------------------------------------------------------------------


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
    return pl.DataFrame(history, schema=histories.COLUMNS)


def _untrained(
    model: PreTrainedModel, validation: TokenSplit, device: torch.device
) -> pl.DataFrame:
    """The history of a model that is left as it was initialised: one point, before any step."""
    measured = evaluate(model.to(device), validation, device, torch.float32)
    rows = measured.rows(split="validation", step=0, tokens=0, learning_rate=0.0)
    return pl.DataFrame(rows, schema=histories.COLUMNS)


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
        with _autocast(device, precision):
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
