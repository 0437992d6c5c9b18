"""Losses of a language model, token by token and summed by domain."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from moediff.corpus.token_shards import TokenSplit
from moediff.models.families import backbone
from moediff.models.inputs import model_inputs
from moediff.training.router_losses import RouterTap, balance_loss, top_k_of


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
    with torch.no_grad(), autocast(device, precision):
        for first in range(0, len(split), batch):
            rows = np.arange(first, min(first + batch, len(split)))
            loss = token_losses(model, split, rows, device)
            logits = tap.take()
            balance = float(balance_loss(logits, top_k)) if logits else 0.0
            sums.add(loss, split, rows, balance)
    model.train()
    tap.close()
    return sums


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)
