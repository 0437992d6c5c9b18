"""One optimizer step of a language model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.core.device import autocast, pick_precision
from moediff.core.errors import UserError
from moediff.core.ranks import ALONE, Ranks
from moediff.corpus.token_shards import TokenSplit
from moediff.models.autocast import follow_autocast
from moediff.models.families import routers, top_k
from moediff.training.objectives import token_losses
from moediff.training.optimizers import OPTIMIZERS
from moediff.training.plan import Plan
from moediff.training.router_losses import Mean, over_tokens, summed_over_layers
from moediff.training.router_tap import tapped
from moediff.training.sharding import shard
from moediff.training.trainable import train_only


class Step:
    """Steps of one model by a plan: what it learns from, which of its parameters learn, how finely.

    Of several ranks each takes its part of every batch; gradients are summed over them, so that all hold the
    same model. `sharded`: each holds a part of every parameter only (`sharding.shard`).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        plan: Plan,
        device: torch.device,
        ranks: Ranks = ALONE,
        sharded: bool = False,
    ) -> None:
        self.model, self.plan, self.device, self.ranks = model, plan, device, ranks
        self.precision = pick_precision(plan.precision, device)
        model.to(device).train()  # type: ignore[arg-type]  # transformers hides self
        if self.precision != torch.float32:
            follow_autocast(model)
        train_only(model, plan.trainable)
        smallest = min(map(len, self._micro_batches(np.arange(plan.batch))))
        if smallest < ranks.count:
            raise UserError(
                f"{ranks.count} ranks share batches of {smallest} sequences: give the job fewer ranks, "
                "or make training.batch or micro_batch larger"
            )
        self.sharded = sharded
        if sharded and plan.optimizer == "muon":
            raise UserError(
                "training.optimizer: muon moves whole matrices, of which each rank holds a part; set adamw, "
                "or let every rank hold the model"
            )
        if sharded:
            shard(model)
        self.optimizers = OPTIMIZERS[plan.optimizer](model, plan)
        self.routed, self.top_k = bool(routers(model)), top_k(model) or 1

    def mine(self, rows: np.ndarray) -> np.ndarray:
        """Of the sequences of a step those that this rank reads, in the order in which it does."""
        return np.concatenate([self.ranks.part(part) for part in self._micro_batches(rows)])

    def _micro_batches(self, rows: np.ndarray) -> list[np.ndarray]:
        micro = self.plan.micro_batch or len(rows)
        return [rows[start : start + micro] for start in range(0, len(rows), micro)]

    def take(
        self, data: TokenSplit, rows: np.ndarray, rate: float
    ) -> tuple[Tensor, dict[str, float]]:
        """One step over the sequences `rows` at a learning rate.

        Token losses [sequence, position - 1] of `mine(rows)`, and router losses of all by name; both before
        the step.
        """
        plan = self.plan
        targets = max(1, int(data.is_target[rows].sum()))  # none where no domain is learned
        losses, measured = [], dict.fromkeys(plan.router_losses if self.routed else (), 0.0)
        for whole in self._micro_batches(rows):
            part = self.ranks.part(whole)
            with autocast(self.device, self.precision), tapped(self.model) as logits:
                loss = token_losses(self.model, data, part, self.device)
            objective = loss.sum() / targets
            mean = self._mean(len(part) / len(whole))
            named = summed_over_layers(logits, self.top_k, plan.router_losses, mean)
            for name, total in named.items():
                router_loss = total * (len(part) / len(rows))
                objective = objective + plan.router_losses[name] * router_loss
                measured[name] += float(router_loss.detach())
            objective.backward()
            losses.append(loss.detach())
        if not self.sharded:  # shards have summed theirs
            self.ranks.sum_gradients(p for p in self.model.parameters() if p.requires_grad)
        nn.utils.clip_grad_norm_(self.model.parameters(), plan.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        totals = self.ranks.summed(np.array(list(measured.values()), np.float64))
        return torch.cat(losses), dict(zip(measured, totals.tolist(), strict=True))

    def _mean(self, share: float) -> Mean:
        """The mean over the tokens of all ranks, of which this one holds a share."""

        def mean(values: Tensor) -> Tensor:
            own = over_tokens(values)
            if self.ranks.count > 1:
                own = own * share
                self.ranks.sum_([own])
            return own

        return mean
