"""One optimizer step of a language model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.core.device import autocast, pick_precision
from moediff.corpus.token_shards import TokenSplit
from moediff.models.autocast import follow_autocast
from moediff.models.families import routers, top_k
from moediff.training.objectives import token_losses
from moediff.training.optimizers import OPTIMIZERS
from moediff.training.plan import Plan
from moediff.training.router_losses import summed_over_layers
from moediff.training.router_tap import tapped
from moediff.training.trainable import train_only


class Step:
    """Steps of one model by a plan: what it learns from, which of its parameters learn, how finely."""

    def __init__(self, model: PreTrainedModel, plan: Plan, device: torch.device) -> None:
        self.model, self.plan, self.device = model, plan, device
        self.precision = pick_precision(plan.precision, device)
        model.to(device).train()  # type: ignore[arg-type]  # transformers hides self
        if self.precision != torch.float32:
            follow_autocast(model)
        train_only(model, plan.trainable)
        self.optimizers = OPTIMIZERS[plan.optimizer](model, plan)
        self.routed, self.top_k = bool(routers(model)), top_k(model) or 1

    def take(
        self, data: TokenSplit, rows: np.ndarray, rate: float
    ) -> tuple[Tensor, dict[str, float]]:
        """One step over the sequences `rows` at a learning rate.

        Token losses [batch, position - 1] and router losses by name, both before the step.
        """
        plan = self.plan
        targets = max(1, int(data.is_target[rows].sum()))  # none where no domain is learned
        micro = plan.micro_batch or len(rows)
        losses, measured = [], dict.fromkeys(plan.router_losses if self.routed else (), 0.0)
        for start in range(0, len(rows), micro):
            part = rows[start : start + micro]
            with autocast(self.device, self.precision), tapped(self.model) as logits:
                loss = token_losses(self.model, data, part, self.device)
            objective = loss.sum() / targets
            named = summed_over_layers(logits, self.top_k, plan.router_losses)
            for name, total in named.items():
                router_loss = total * (len(part) / len(rows))
                objective = objective + plan.router_losses[name] * router_loss
                measured[name] += float(router_loss.detach())
            objective.backward()
            losses.append(loss.detach())
        nn.utils.clip_grad_norm_(self.model.parameters(), plan.clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return torch.cat(losses), measured
