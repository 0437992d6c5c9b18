"""How one model is trained: losses and parts, rates, batches, their order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Plan:
    """How one model is trained, from the weights that it begins with; keys as in config/schema.yaml.

    The objective is next-token cross-entropy, plus router losses by weight: at 0 one is measured
    and not learned from.
    """

    peak_lr: float
    batch: int
    epochs: int
    warmup: float
    final_lr: float
    betas: tuple[float, float]
    weight_decay: float
    clip: float
    router_losses: dict[str, float]  # name in `router_losses.ROUTER_LOSSES` -> weight
    precision: str
    evaluations: int
    data_seed: int
    micro_batch: int | None = None
    sequences: int | None = None  # of the train split; None is all
    trainable: str = "all"  # name in `trainable.TRAINABLE`
    optimizer: str = "adamw"  # name in `optimizers.OPTIMIZERS`

    @classmethod
    def of(cls, settings: Mapping[str, Any], peak_lr: float, seed: int) -> Plan:
        """The plan of a config's `training`; without a data seed of its own the order follows `seed`.

        Keys of `config.training.YOUNGER` may be left out: they came after `balance` and the rest.
        """
        known = {key: settings[key] for key in cls.__dataclass_fields__ if key in settings}
        data_seed = settings["data_seed"] if settings["data_seed"] is not None else seed
        first, second = settings["betas"]  # torch takes no 0 for 0.0
        betas = float(first), float(second)
        losses = {"balance": settings["balance"], **settings.get("router_losses", {})}
        chosen = {"peak_lr": peak_lr, "data_seed": data_seed, "betas": betas}
        return cls(**known | chosen | {"router_losses": losses})

    def facts(self) -> dict[str, Any]:
        """The plan as results say it.

        AdamW goes unsaid: before there was a choice it did, and the same work gives the same bytes.
        """
        facts = asdict(self)
        if self.optimizer == "adamw":
            del facts["optimizer"]
        return facts

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
