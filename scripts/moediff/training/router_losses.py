"""Losses of routers: what keeps the experts of an MoE in use."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.models.families import routers, top_k


class RouterTap:
    """Reads the logits of every router of a model while it runs; empty for a dense model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.logits: list[Tensor] = []  # one [token, expert] a layer
        self.handles = [r.register_forward_hook(self._read) for r in routers(model).values()]

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


def top_k_of(model: PreTrainedModel) -> int:
    """Experts that a token uses (1 for a dense model)."""
    return top_k(model) or 1
