"""Training speed of moediff against a bare forward, backward and optimizer loop of the same model.

    python benchmarks/train_speed.py [--pairs 7] [--steps 12] [--device cuda] [--json FILE]

Both run in one process, in turn, on the same made tokens; saves and evaluation are left out. The
figure is the median over pairs of the ratio of tokens a second (moediff / bare).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from clock import seconds
from torch.nn import functional as F

from moediff.core.device import autocast
from moediff.models import build
from moediff.models.autocast import follow_autocast
from moediff.models.inputs import model_inputs
from moediff.report.budget.made import MadeTokens
from moediff.training.loss_sums import LossSums
from moediff.training.optimizers import OPTIMIZERS
from moediff.training.plan import Plan
from moediff.training.step import Step

DENSE = {
    "d_model": 128, "layers": 5, "heads": 4, "ffn": 512, "experts": 1, "top_k": 1,
    "renormalise": False,
}  # fmt: skip
SHAPES = {"dense": DENSE, "moe": DENSE | {"ffn": 256, "experts": 8, "top_k": 2}}


@dataclass(frozen=True)
class Sizes:
    """Of the tokens of a step."""

    vocabulary: int = 4096
    length: int = 256  # tokens of a sequence
    batch: int = 4  # sequences


def bare(model, optimizer, data, rows, precision) -> None:
    """The least that training can be: no balance loss, no clipping, no schedule, no sums."""
    inputs = model_inputs(data.tokens[rows], data.starts[rows], model.device)
    with autocast(model.device, precision):
        logits = model(**inputs).logits[:, :-1]
    target = inputs["input_ids"][:, 1:]
    F.cross_entropy(logits.flatten(0, 1).float(), target.flatten()).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def measure(
    shape: Mapping[str, object],
    sizes: Sizes,
    pairs: int,
    steps: int,
    device: torch.device,
    precision: str,
) -> dict[str, float | list[float]]:
    """Tokens a second of our step, and its ratio to the bare one: medians of `pairs` turns of `steps`.

    `precision` is as in the config's `training`.
    """
    plan = Plan(
        peak_lr=1e-3, batch=sizes.batch, epochs=1, warmup=0.05, final_lr=0.1, betas=(0.9, 0.99),
        weight_decay=0.01, clip=1.0, router_losses={"balance": 0.01}, precision=precision,
        evaluations=1, data_seed=0,
    )  # fmt: skip
    data = MadeTokens(sizes.batch, sizes.length, sizes.vocabulary)
    rows = np.arange(sizes.batch)
    model, other = (
        build.build(shape, sizes.vocabulary, sizes.length, 0, 0).to(device) for _ in range(2)
    )
    step, sums = Step(model, plan, device), LossSums(data.domains)
    if step.precision != torch.float32:
        follow_autocast(other)
    (optimizer,) = OPTIMIZERS[plan.optimizer](other, plan)

    def ours() -> None:
        loss, router_losses = step.take(data, rows, 1e-3)
        sums.add(loss, data, rows, router_losses)

    def plain() -> None:
        bare(other, optimizer, data, rows, step.precision)

    ours(), plain()  # to warm up
    times = [(seconds(ours, device, steps), seconds(plain, device, steps)) for _ in range(pairs)]
    ratios = sorted(two / one for one, two in times)
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "tokens_a_second": statistics.median(steps * data.tokens.size / one for one, _ in times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", help="as training.precision")
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes, device = Sizes(batch=options.batch), torch.device(options.device)
    measured = {}
    for name, shape in SHAPES.items():
        found = measure(shape, sizes, options.pairs, options.steps, device, options.precision)
        measured[name] = found
        print(
            f"{name}: {found['ratio']:.3f} of a bare loop (median of {options.pairs} pairs, "
            f"{found['ratios'][0]:.3f} to {found['ratios'][-1]:.3f}), "
            f"{found['tokens_a_second']:,.0f} tokens/s"
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(measured, file, indent=2)


if __name__ == "__main__":
    main()
