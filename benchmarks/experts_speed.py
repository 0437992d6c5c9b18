"""Seconds of MoE Lens over those of the model passes that its jobs are made of.

    python benchmarks/experts_speed.py [--sequences 8] [--device cuda]

A bare pass runs the model over the same text and takes its losses. The jobs: what experts say (`lens`),
fewer experts (`fewer_experts`), how they are used (`usage`) and experts left out (`prune`), on a freshly made
MoE of 50M parameters. Passes are counted as the jobs' own tables say: one of the model as it is, one for each
different change; a change of one layer begins at that layer, so it counts as the blocks that are left.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import torch
from clock import seconds
from transformers import PreTrainedModel

from moediff.analysis.reruns import Pass, Text
from moediff.corpus.token_shards import read_token_shard
from moediff.experts import ablation, lens, pruning
from moediff.models import build
from moediff.report.budget import made

SHAPE = {
    "d_model": 512, "layers": 8, "heads": 8, "ffn": 192, "experts": 16, "top_k": 4, "renormalise": False,
}  # fmt: skip
VOCABULARY, LENGTH, BATCH = 8192, 256, 8
DOMAINS = ("first", "second", "third")
POSITIONS = 64  # lens.positions
CHOICE = pruning.Choice(list(pruning.SCORES), [0.75, 0.5, 0.25, 0.125], 0)


class Work:
    """A model, a text, and the jobs over them."""

    def __init__(self, folder: Path, sequences: int, device: torch.device) -> None:
        self.model: PreTrainedModel = build.build(SHAPE, VOCABULARY, LENGTH, 0, 0).to(device)
        self.model.eval().requires_grad_(False)
        path = made.text(folder / "tokens.h5", sequences, LENGTH, VOCABULARY, DOMAINS)
        self.text = Text(read_token_shard(path))
        self.usage: dict[str, Any] = {}

    def runs(self) -> Iterator[Pass]:
        count = len(self.text.tokens.tokens)
        for first in range(0, count, BATCH):
            yield Pass(self.model, self.text, slice(first, first + BATCH), False)

    def bare(self) -> None:
        for run in self.runs():
            run.losses()

    def lens(self) -> float:
        lens.expert_lens(self.runs(), DOMAINS, POSITIONS)
        return 1

    def fewer_experts(self) -> float:
        table = ablation.fewer_experts(self.runs(), [1], DOMAINS).filter(pl.col("domain") == "all")
        alone = table["layer"].drop_nulls().to_list()
        whole = table["layer"].null_count()
        return whole + sum(1 - layer / SHAPE["layers"] for layer in alone)

    def measured(self) -> float:
        self.usage = pruning.measured(self.runs(), True, DOMAINS)
        return 1

    def left_out(self) -> float:
        pruning.prune_costs(self.usage, CHOICE, self.runs(), DOMAINS)
        gone = {
            tuple(map(tuple, pruning.left_out(used, score, keep, SHAPE["top_k"], 0).values()))
            for used in self.usage.values()
            for score in CHOICE.scores
            for keep in CHOICE.keep
        }
        return 1 + len(gone)

    def smaller(self) -> Callable[[], None]:
        """A bare pass of the model with half of its experts, by `reap`."""
        gone = pruning.left_out(self.usage["all"], "reap", 0.5, SHAPE["top_k"], 0)
        model = pruning.pruned(self.model, gone).eval().requires_grad_(False)

        def bare() -> None:
            for run in self.runs():
                replace(run, model=model).losses()

        return bare


def measure(sequences: int, device: torch.device) -> Iterator[tuple[str, float, float]]:
    """Name, passes and seconds of each job, after those of a bare pass; bare passes run between the jobs."""
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), sequences, device)
        work.bare()  # to warm up
        bare = [seconds(work.bare, device, 3) / 3]
        jobs: dict[str, Callable[[], float]] = {
            "lens": work.lens,
            "fewer_experts": work.fewer_experts,
            "usage": work.measured,
            "prune": work.left_out,
        }
        found = []
        for name, job in jobs.items():
            passes: list[float] = []
            taken = seconds(lambda job=job, passes=passes: passes.append(job()), device)
            found.append((name, passes[0], taken))
            bare.append(seconds(work.bare, device, 3) / 3)
        half = work.smaller()
        half()
        turns = [(seconds(half, device), seconds(work.bare, device)) for _ in range(5)]
        print(
            f"half of the experts: {median(one / other for one, other in turns):.2f} of a bare pass's time"
        )
        yield "bare pass", 1, sum(bare) / len(bare)
        yield from found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    (_, _, bare), *jobs = measure(arguments.sequences, torch.device(arguments.device))
    print(f"bare pass: {bare:.2f} s", flush=True)
    for name, passes, taken in jobs:
        print(f"{name}: {passes:.2f} passes, {taken:.1f} s, {taken / (passes * bare):.2f} of them")
    passes, taken = (sum(column) for column in list(zip(*jobs, strict=True))[1:])
    print(f"all: {passes:.2f} passes, {taken:.1f} s, {taken / (passes * bare):.2f} of them")


if __name__ == "__main__":
    main()
