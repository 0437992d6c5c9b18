"""Training speed of moediff against a bare forward, backward and optimizer loop of the same model.

    python benchmarks/train_speed.py [--pairs 7] [--steps 12] [--json FILE]

Both run in one process, in turn, on the same made tokens; saves and evaluation are left out. The
figure is the median over pairs of the ratio of tokens a second (moediff / bare).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch
from torch.nn import functional as F

from moediff.models import build
from moediff.models.inputs import model_inputs
from moediff.report.budget import MadeTokens
from moediff.training.loss_sums import LossSums
from moediff.training.plan import Plan
from moediff.training.step import Step, make_optimizer

DENSE = {
    "d_model": 128, "layers": 5, "heads": 4, "ffn": 512, "experts": 1, "top_k": 1,
    "renormalise": False,
}  # fmt: skip
SHAPES = {"dense": DENSE, "moe": DENSE | {"ffn": 256, "experts": 8, "top_k": 2}}


def bare(model, optimizer, data, rows) -> None:
    """The least that training can be: no balance loss, no clipping, no schedule, no sums."""
    inputs = model_inputs(data.tokens[rows], data.starts[rows], model.device)
    logits = model(**inputs).logits[:, :-1]
    target = inputs["input_ids"][:, 1:]
    F.cross_entropy(logits.flatten(0, 1).float(), target.flatten()).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def seconds(step, steps: int) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = {}
    plan = Plan(
        peak_lr=1e-3, batch=options.batch, epochs=1, warmup=0.05, final_lr=0.1, betas=(0.9, 0.99),
        weight_decay=0.01, clip=1.0, router_losses={"balance": 0.01}, precision="float32",
        evaluations=1, data_seed=0,
    )  # fmt: skip
    data = MadeTokens(options.batch, 256, 4096)
    rows = np.arange(options.batch)
    for name, shape in SHAPES.items():
        model, other = (build.build(shape, 4096, 256, 0, 0) for _ in range(2))
        step, sums = Step(model, plan, model.device), LossSums(data.domains)
        optimizer = make_optimizer(other, plan)

        def ours(step=step, sums=sums) -> None:
            loss, router_losses = step.take(data, rows, 1e-3)
            sums.add(loss, data, rows, router_losses)

        def plain(model=other, optimizer=optimizer) -> None:
            bare(model, optimizer, data, rows)

        ours(), plain()
        ratios, speeds = [], []
        for _ in range(options.pairs):
            own, other = seconds(ours, options.steps), seconds(plain, options.steps)
            ratios.append(other / own)
            speeds.append(options.steps * data.tokens.size / own)
        found[name] = {
            "ratio": statistics.median(ratios),
            "ratios": sorted(ratios),
            "tokens_a_second": statistics.median(speeds),
        }
        print(
            f"{name}: {found[name]['ratio']:.3f} of a bare loop (median of {options.pairs} pairs, "
            f"{min(ratios):.3f} to {max(ratios):.3f}), {found[name]['tokens_a_second']:,.0f} tokens/s"
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)


if __name__ == "__main__":
    main()
