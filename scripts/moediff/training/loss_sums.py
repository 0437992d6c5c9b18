"""Losses summed over batches: token losses by domain, router losses beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moediff.core.device import autocast
from moediff.core.ranks import ALONE, Ranks
from moediff.corpus.token_shards import TokenSplit
from moediff.models.families import top_k
from moediff.training.history import ALL, CROSS_ENTROPY
from moediff.training.objectives import token_losses
from moediff.training.router_losses import summed_over_layers
from moediff.training.router_tap import tapped


class LossSums:
    """Sums of token losses by domain, and of router losses by name, in float64."""

    def __init__(self, domains: tuple[str, ...]) -> None:
        self.domains = domains
        self.loss = np.zeros(len(domains))  # [domain]
        self.count = np.zeros(len(domains))  # [domain], targets
        self.router_losses: dict[str, float] = {}
        self.batches = 0

    def add(
        self, loss: Tensor, split: TokenSplit, rows: np.ndarray, router_losses: Mapping[str, float]
    ) -> None:
        """Count one batch of `token_losses`, and its router losses."""
        target = split.is_target[rows]
        domain = split.domain[rows][:, 1:][target]
        values = loss.detach().double().cpu().numpy()[target]
        self.loss += np.bincount(domain, weights=values, minlength=len(self.domains))
        self.count += np.bincount(domain, minlength=len(self.domains))
        for name, value in router_losses.items():
            self.router_losses[name] = self.router_losses.get(name, 0.0) + value
        self.batches += 1

    def over(self, ranks: Ranks) -> LossSums:
        """Those of all ranks, of which each counted its own tokens; router losses are of all already."""
        found = copy(self)
        found.loss, found.count = np.split(ranks.summed(np.concatenate([self.loss, self.count])), 2)
        return found

    def without_tokens(self) -> LossSums:
        """The same, of whose tokens another rank has the sums."""
        found = copy(self)
        found.loss, found.count = np.zeros_like(self.loss), np.zeros_like(self.count)
        return found

    def state(self) -> dict[str, Any]:
        """All sums, as plain numbers that JSON holds exactly."""
        return {
            "loss": self.loss.tolist(),
            "count": self.count.tolist(),
            "router_losses": self.router_losses,
            "batches": self.batches,
        }

    @classmethod
    def of(cls, domains: tuple[str, ...], state: Mapping[str, Any] | None) -> LossSums:
        """Sums as `state` gave them; empty ones where there is none."""
        sums = cls(domains)
        if state is not None:
            sums.loss, sums.count = np.array(state["loss"]), np.array(state["count"])
            sums.router_losses, sums.batches = dict(state["router_losses"]), state["batches"]
        return sums

    def cross_entropies(self) -> dict[str, float]:
        """Nats a token, over all domains together and in each that was seen."""
        sums = {ALL: (self.loss.sum(), self.count.sum())}
        sums |= {
            name: (self.loss[i], self.count[i])
            for i, name in enumerate(self.domains)
            if self.count[i]
        }
        return {name: float(loss / count) for name, (loss, count) in sums.items()}

    def rows(self, step: int, split: str) -> list[dict[str, Any]]:
        """Rows of the history: cross-entropies by domain, router losses as means over batches."""
        values = [
            (domain, CROSS_ENTROPY, value) for domain, value in self.cross_entropies().items()
        ]
        values += [(ALL, name, total / self.batches) for name, total in self.router_losses.items()]
        return [
            {"step": step, "split": split, "domain": domain, "name": name, "value": value}
            for domain, name, value in values
        ]


def evaluate(
    model: PreTrainedModel,
    split: TokenSplit,
    device: Any,
    precision: torch.dtype,
    router_loss_names: Iterable[str],
    batch: int = 16,
    ranks: Ranks = ALONE,
) -> LossSums:
    """Cross-entropy over a whole split, and the named router losses apart.

    Ranks take batches in turn; all run the model equally often, since one that holds a part of it cannot run
    it alone, and what was run for that alone is not counted.
    """
    used, names = top_k(model) or 1, list(router_loss_names)
    sums = LossSums(split.domains)
    firsts = range(0, len(split), batch)
    own = firsts[ranks.rank :: ranks.count]
    turns = -(-len(firsts) // ranks.count)
    model.eval()
    with torch.no_grad(), autocast(device, precision):
        for turn in range(turns):
            counts = turn < len(own)
            first = own[turn] if counts else 0
            rows = np.arange(first, min(first + batch, len(split)))
            with tapped(model) as logits:
                loss = token_losses(model, split, rows, device)
            if counts:
                measured = summed_over_layers(logits, used, names)
                values = {name: float(value) for name, value in measured.items()}
                sums.add(loss, split, rows, values)
    model.train()
    return sums if ranks.count == 1 else _of_turns(sums, ranks, names)


def _of_turns(sums: LossSums, ranks: Ranks, names: Sequence[str]) -> LossSums:
    """Those of all ranks, each of which counted batches of its own."""
    found = sums.over(ranks)
    mine = [sums.batches, *(sums.router_losses.get(name, 0.0) for name in names)]
    batches, *totals = ranks.summed(np.array(mine)).tolist()
    found.batches = round(batches)
    if sums.router_losses:
        found.router_losses = dict(zip(names, totals, strict=True))
    return found
