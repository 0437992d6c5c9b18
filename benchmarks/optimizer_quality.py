"""What an optimizer is worth: loss by tokens and by seconds of CPU, of the models of a finished study.

    python benchmarks/optimizer_quality.py results [--models dense moe] [--runs adamw:0.003 muon:0.006]
                                                   [--share 1.0] [--points 4] [--turns 5] [--json FILE]

Each model begins with its first seed's weights and is trained by its own plan on the study's own text,
but for the optimizer and its peak rate, and measured on its validation split. Seconds are of the
process, of steps alone. The cost of a step is measured apart: steps of the optimizers in turn, on the
same batch, and the median of their ratios to the first run's. With `--share` below 1 a run sees that
much of the text, its schedule as much shorter.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from moediff.core import artifact
from moediff.corpus.token_shards import TokenSplit
from moediff.corpus.tokenizer import read_vocabulary
from moediff.models import build
from moediff.training.loss_sums import evaluate
from moediff.training.plan import Plan, batch_order
from moediff.training.step import Step

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Study:
    """A model of a finished study: how it was made, and of what text."""

    architecture: dict[str, Any]
    plan: Plan
    vocabulary: Any
    train: TokenSplit
    validation: TokenSplit

    @classmethod
    def open(cls, results: Path, model: str) -> Study:
        facts = artifact.read_json(results / "models" / model / "seed-0" / "model.json")
        train, validation = (
            TokenSplit(sorted((results / "corpus" / split).glob("*.h5")))
            for split in ("train", "validation")
        )
        vocabulary = read_vocabulary(results / "corpus" / "vocabulary.json")
        return cls(facts["architecture"], Plan(**facts["plan"]), vocabulary, train, validation)

    def step(self, plan: Plan) -> Step:
        """The first step of a new model."""
        length = self.train.tokens.shape[1]
        made = build.build(
            self.architecture, self.vocabulary.size, length, self.vocabulary.end_of_text, 0
        )
        return Step(made, plan, CPU)


def train(study: Study, plan: Plan) -> list[dict[str, Any]]:
    """Points of a run: tokens, seconds of CPU, and validation cross-entropy by domain."""
    step, steps = study.step(plan), plan.steps(len(study.train))
    marks = {round(steps * (i + 1) / plan.evaluations) for i in range(plan.evaluations)}
    points, seconds = [], 0.0
    for number, rows in enumerate(batch_order(plan, len(study.train))):
        start = time.process_time()
        step.take(study.train, rows, plan.learning_rate(number, steps))
        seconds += time.process_time() - start
        if number + 1 in marks:
            sums = evaluate(step.model, study.validation, CPU, step.precision, [])
            tokens = (number + 1) * plan.batch * study.train.tokens.shape[1]
            losses = sums.cross_entropies()
            points.append({"tokens": tokens, "seconds": seconds, "losses": losses})
            print(f"  {tokens:>9,} tokens {seconds:7.1f} s {losses['all']:.4f} nats", flush=True)
    return points


def step_costs(study: Study, plans: list[Plan], turns: int) -> list[float]:
    """Seconds of CPU of a step by each plan's optimizer over those of the first: medians over turns."""
    steps = [study.step(plan) for plan in plans]
    rows = next(iter(batch_order(plans[0], len(study.train))))
    taken: list[list[float]] = []
    for _ in range(turns + 1):
        taken.append([])
        for step in steps:
            start = time.process_time()
            for _ in range(3):
                step.take(study.train, rows, 1e-4)
            taken[-1].append(time.process_time() - start)
    ratios = [[one / turn[0] for one in turn] for turn in taken[1:]]  # the first turn warms up
    return [statistics.median(of_one) for of_one in zip(*ratios, strict=True)]


def reached(points: list[dict[str, Any]], loss: float) -> tuple[float, float] | None:
    """Tokens and seconds at which a run first has a loss, between points by a straight line."""
    for before, after in itertools.pairwise(points):
        high, low = before["losses"]["all"], after["losses"]["all"]
        if high > loss >= low:
            part = (high - loss) / (high - low)
            return tuple(
                before[key] + part * (after[key] - before[key]) for key in ("tokens", "seconds")
            )
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--models", nargs="+", default=["dense", "moe"])
    parser.add_argument(
        "--runs", nargs="+", metavar="OPTIMIZER:RATE",
        default=["adamw:0.003", "muon:0.003", "muon:0.006", "muon:0.012"],
    )  # fmt: skip
    parser.add_argument("--share", type=float, default=1.0, help="of the train split")
    parser.add_argument("--points", type=int, default=4, help="at which a run is measured")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if min(options.points, options.turns) < 1:
        parser.error("--points and --turns are at least 1")
    torch.set_num_threads(options.threads)
    measured: dict[str, Any] = {}
    for model in options.models:
        study = Study.open(options.results, model)
        sequences = round(options.share * len(study.train))
        plans = {}
        for run in options.runs:
            optimizer, rate = run.split(":")
            plans[run] = replace(
                study.plan, optimizer=optimizer, peak_lr=float(rate), sequences=sequences,
                evaluations=options.points,
            )  # fmt: skip
        by_optimizer = {plan.optimizer: plan for plan in reversed(plans.values())}
        by_optimizer = dict(reversed(by_optimizer.items()))  # the first run's first
        costs = step_costs(study, list(by_optimizer.values()), options.turns)
        cost = dict(zip(by_optimizer, costs, strict=True))
        measured[model] = {"step_cost": cost, "runs": {}}
        for run, plan in plans.items():
            print(f"{model} {run}", flush=True)
            measured[model]["runs"][run] = train(study, plan)
            if options.json:
                options.json.write_text(json.dumps(measured, indent=2), encoding="utf-8")
        show(model, measured[model], study.validation.domains)


def show(model: str, measured: dict[str, Any], domains: tuple[str, ...]) -> None:
    """Print the table of a model."""
    runs = measured["runs"]
    goal = next(iter(runs.values()))[-1]["losses"]["all"]
    print(
        f"| {model} | all | {' | '.join(domains)} | half-way | step | seconds | as good as the first at |"
    )
    print("|---|" + "---|" * (len(domains) + 5))
    for run, points in runs.items():
        last, half = points[-1], points[max(0, len(points) // 2 - 1)]
        losses = " | ".join(f"{last['losses'][name]:.3f}" for name in ("all", *domains))
        found = reached(points, goal)
        when = f"{found[0] / last['tokens']:.0%} of tokens, {found[1]:.0f} s" if found else ""
        cost = measured["step_cost"][run.split(":")[0]]
        print(
            f"| {run} | {losses} | {half['losses']['all']:.3f} | {cost:.2f} | {last['seconds']:.0f} "
            f"| {when} |"
        )


if __name__ == "__main__":
    main()
