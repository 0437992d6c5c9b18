"""Fit a dictionary on activation shards: gradient steps, checkpoints, and the threshold at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from moediff import checkpoint
from moediff.activations import AlignedRows, held_out_documents
from moediff.dictionary import Block, Dictionary, Shape, widen
from moediff.errors import Diverged
from moediff.progress import Progress, log
from moediff.sparse import (
    SELECT,
    DenseScores,
    Entries,
    Linear,
    has_bfloat16,
    localise,
    row_top,
    selected_values,
    sparse_decode,
)

HISTORY = {
    "step": pl.Int64,
    "rows": pl.Int64,
    "fve": pl.Float64,
    "l0": pl.Float64,
    "dead_share": pl.Float64,
    "learning_rate": pl.Float64,
}
# Dead features a row beyond which AuxK is cheaper by entries than by products over all dead ones:
# an entry costs about as much as twenty numbers of a product (docs/engine.md).
SPARSE_AUX = 20
POINTS = 100  # of the history, at most
GUESS = 0.96  # of the last edge: the next batch's edge is seldom lower


# A block, its dead features, their places among all dead ones, and their ranking weights.
Dead = tuple[Block, Tensor, slice, Tensor]


class Fitter:
    """A dictionary in training: one step at a time, its whole state in tensors.

    The loss of a batch is the squared error of standardised rows over the number of sources, which
    is 1 - pooled FVE of the batch, plus AuxK (2406.04093, appendix A.2): dead features, at most
    `aux_k` a row by score, rebuild what is left of the row, without bias. The gradient of AuxK
    reaches their encoders and decoders and nothing else. A feature that dies with a bias below
    all that its rows can lift gets bias 0 (our addition: no gradient reaches it there).
    """

    def __init__(self, dictionary: Dictionary, recipe: Mapping[str, Any]) -> None:
        self.dictionary = dictionary
        self.recipe = recipe
        self.steps = max(1, recipe["rows"] // recipe["batch"])
        self.dead_after = recipe["dead_after"] * self.steps * recipe["batch"]  # rows
        self.aux_k = recipe["aux_k"] or max(1, sum(dictionary.shape.widths) // 2)
        device = dictionary.decoder_bias.device
        self.silent = torch.zeros(dictionary.shape.features, dtype=torch.int64, device=device)
        self.optimizer = torch.optim.Adam(dictionary.parameters(), lr=recipe["lr"], fused=True)
        self.step = 0
        self.edge = 0.0  # smallest selected score of the last batch: only a guess for the next
        self.violations = 0  # of the bounds of screening, in this process; 0 or screening is wrong
        self.screened = has_bfloat16(device) if recipe["screen"] == "auto" else recipe["screen"]

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, constant, then linear to 0 over the last `decay` of the steps."""
        recipe = self.recipe
        rising = (step + 1) / max(1, round(recipe["warmup"] * self.steps))
        falling = (self.steps - step) / max(1, round(recipe["decay"] * self.steps))
        return recipe["lr"] * min(1.0, rising, falling)

    def update(self, rows: Tensor) -> dict[str, float]:
        """One optimizer step on standardised rows [row, D]; squared error and L0 sums before it."""
        model, recipe = self.dictionary, self.recipe
        size, sources = len(rows), len(model.shape.widths)
        entries, known, weight = self._select(rows)
        values = model.values(known, rows, entries)
        residual = rows - model.decode(values, entries, size)
        error = residual.square().sum()
        loss = error / (size * sources)
        self._count_silent(entries[1], size)
        dead = (self.silent > self.dead_after).nonzero().squeeze(1)
        if len(dead) and recipe["aux_weight"]:
            self._lift(dead[self.silent[dead] - size <= self.dead_after], rows)
            left = self._auxiliary(rows, residual.detach(), dead, weight)
            loss = loss + recipe["aux_weight"] * left
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe["clip"])
        rate = self.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {
            "error": float(error.detach()),
            "total": float(rows.square().sum()),
            "active": float(len(entries[0])),
            "rows": float(size),
        }

    def _select(self, rows: Tensor) -> tuple[Entries, Tensor, Tensor]:
        """Entries of a batch, their pre-activations, and the ranking weights; all scores are let go."""
        scores, weight = self.dictionary.score(rows, self.screened)
        rule = SELECT[self.recipe["select"]]
        entries, found = rule(scores, self.recipe["k"], GUESS * self.edge)
        self.edge = float(found.min()) if len(found) else 0.0
        self.violations += scores.violations
        return entries, found / weight[entries[1]], weight

    def _count_silent(self, features: Tensor, size: int) -> None:
        self.silent += size
        self.silent[features] = 0

    @torch.no_grad()
    def _lift(self, features: Tensor, rows: Tensor) -> None:
        """Bias 0, and no momentum, for newly dead features that no row of the batch activates."""
        for block in self.dictionary.blocks.values():
            _, (inside, _) = localise((features, features), block.features)
            own = inside - block.features.start
            before = rows[:, block.columns] @ block.encoder[own].T + block.encoder_bias[own]
            own = own[(before <= 0).all(0)]
            block.encoder_bias[own] = block.encoder_bias[own].clamp_min(0)
            moments = self.optimizer.state[block.encoder_bias]
            for name in ("exp_avg", "exp_avg_sq"):
                if name in moments:
                    moments[name][own] = 0

    def _auxiliary(self, rows: Tensor, residual: Tensor, dead: Tensor, weight: Tensor) -> Tensor:
        """Share of the residual's sum of squares that the dead features leave."""
        parts = []  # the dead features of each block, as if they were a dictionary of their own
        start = 0
        for block in self.dictionary.blocks.values():
            inside, (features, _) = localise((dead, dead), block.features)
            if len(inside):
                own = features - block.features.start
                here = slice(start, start + len(inside))
                parts.append((block, own, here, weight[features]))
                start += len(inside)
        predict = self._entrywise if len(dead) > SPARSE_AUX * self.aux_k else self._by_products
        left = residual - predict(rows, parts)
        return left.square().sum() / residual.square().sum().clamp_min(1e-12)

    def _by_products(self, rows: Tensor, parts: Sequence[Dead]) -> Tensor:
        """What the dead features predict, by products over all of them and a mask."""
        codes = [
            (rows[:, block.columns] @ block.encoder[own].T + block.encoder_bias[own]).relu()
            for block, own, _, _ in parts
        ]
        scores = [c.detach() * weight for c, (_, _, _, weight) in zip(codes, parts, strict=True)]
        keep = _largest_of_each_row(torch.cat(scores, dim=1), self.aux_k)
        predicted = torch.zeros_like(rows)
        for code, (block, own, here, _) in zip(codes, parts, strict=True):
            decoded = (code * keep[:, here]) @ block.decoder()[own]
            predicted = predicted + widen(decoded, block.columns, rows.shape[1])
        return predicted

    def _entrywise(self, rows: Tensor, parts: Sequence[Dead]) -> Tensor:
        """The same by entries: the dead features are a small dictionary."""
        tables = [(block.encoder[own], block.encoder_bias[own]) for block, own, _, _ in parts]
        linear = [
            Linear(encoder.detach(), bias.detach(), weight, block.columns, here)
            for (encoder, bias), (block, _, here, weight) in zip(tables, parts, strict=True)
        ]
        entries, found = row_top(DenseScores(rows, linear), self.aux_k)
        known = found / torch.cat([weight for *_, weight in parts])[entries[1]]
        predicted = torch.zeros_like(rows)
        for (encoder, bias), (block, own, here, _) in zip(tables, parts, strict=True):
            inside, local = localise(entries, here)
            values = selected_values(known[inside], rows[:, block.columns], encoder, bias, local)
            decoded = sparse_decode(values, block.decoder()[own], local, len(rows))
            predicted = predicted + widen(decoded, block.columns, rows.shape[1])
        return predicted

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on."""
        return checkpoint.state_of(self.dictionary, self.optimizer) | {"silent": self.silent}

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Take up `state` after `step` steps, every tensor."""
        checkpoint.restore(self.dictionary, self.optimizer, tensors)
        self.silent = tensors["silent"].to(self.silent.device)
        self.step = step


def _largest_of_each_row(scores: Tensor, count: int) -> Tensor:
    """Mask of the `count` largest positive scores of each row."""
    if scores.shape[1] > count:
        edge = scores.topk(count, dim=1, sorted=False).values.min(1, keepdim=True).values
        return ((scores >= edge) & (scores > 0)).to(scores.dtype)
    return (scores > 0).to(scores.dtype)


def fit(
    data: AlignedRows,
    recipe: Mapping[str, Any],
    seed: int,
    state: Path,
    device: torch.device,
    name: str = "dictionary",
) -> tuple[Dictionary, pl.DataFrame]:
    """Fit one dictionary on the fit split; the dictionary, ready to use, and its history.

    Whole documents are kept out of the gradient for the threshold. Checkpoints go to `state`; a run
    that was killed goes on from the newest whole one and ends with the same bytes on CPU.
    """
    shape = Shape.of(recipe, data.widths)
    dictionary = Dictionary(shape, seed)
    _set_standards(dictionary, data)
    dictionary.to(device)
    held_out = held_out_documents(
        data.column("document"), data.column("domain"), recipe["threshold_rows"], seed
    )
    fitter = Fitter(dictionary, recipe)
    history: list[dict[str, Any]] = []
    found = checkpoint.newest(state)
    if found is not None:
        tensors, metadata = found
        fitter.restore(tensors, metadata["step"])
        history = metadata["history"]
        log.info("%s: resumed after step %d", name, fitter.step)
    batch = recipe["batch"]
    progress = Progress(fitter.steps * batch, name, "rows", fitter.step * batch)
    batches = data.shuffled(~held_out, batch, recipe["pool_chunks"], seed, fitter.step)
    with closing(batches):
        for done in _train(fitter, batches, history, device, progress, name):
            if done in _saves(fitter.steps, recipe["checkpoints"]):
                checkpoint.save(state, done, fitter.state(), {"history": history})
    progress.close()
    if fitter.violations:
        log.warning("%s: screening missed its bound %d times; set screen: false and report it",
                    name, fitter.violations)  # fmt: skip
    threshold = exact_threshold(dictionary, data, held_out, recipe["k"], batch)
    dictionary.threshold.fill_(threshold)
    return dictionary.requires_grad_(False), pl.DataFrame(history, schema=HISTORY)


def _set_standards(dictionary: Dictionary, data: AlignedRows) -> None:
    """Mean and root of total variance of each source over the fit rows (decision 3)."""
    moments = data.moments()
    dictionary.mean.copy_(torch.from_numpy(np.concatenate([mean for mean, _ in moments])))
    for source, (_, variance) in enumerate(moments):
        dictionary.scale[source] = variance**0.5


def _train(
    fitter: Fitter,
    batches: Iterator[list[Tensor]],
    history: list[dict[str, Any]],
    device: torch.device,
    progress: Progress,
    name: str,
) -> Iterator[int]:
    """Step to the end, adding to the history; yields the number of steps at each of its points."""
    window = max(1, fitter.steps // POINTS)
    sums = dict.fromkeys(("error", "total", "active", "rows"), 0.0)
    while fitter.step < fitter.steps:
        sources = [part.to(device) for part in next(batches)]
        measured = fitter.update(fitter.dictionary.standardise(sources))
        sums = {key: value + measured[key] for key, value in sums.items()}
        progress.advance(int(measured["rows"]))
        if fitter.step % window and fitter.step < fitter.steps:
            continue
        if not np.isfinite(sums["error"]):
            raise Diverged(f"{name}: the error is no longer finite; lower the recipe's lr")
        history.append(
            {
                "step": fitter.step,
                "rows": fitter.step * fitter.recipe["batch"],
                "fve": 1 - sums["error"] / sums["total"],
                "l0": sums["active"] / sums["rows"],
                "dead_share": float((fitter.silent > fitter.dead_after).double().mean()),
                "learning_rate": fitter.learning_rate(fitter.step - 1),
            }
        )
        sums = dict.fromkeys(sums, 0.0)
        yield fitter.step


def _saves(steps: int, points: int) -> set[int]:
    """Steps after which to save: the points of the history next to an even spread."""
    window = max(1, steps // POINTS)
    wanted = (round(steps * (i + 1) / points) for i in range(points))
    return {min(steps, -(-step // window) * window) for step in wanted}


@torch.no_grad()
def exact_threshold(
    dictionary: Dictionary, data: AlignedRows, held_out: np.ndarray, k: int, batch: int
) -> float:
    """The (k * rows)-th largest score over the held-out rows: they then fire k features on average.

    Streamed: after each batch only the k * rows largest scores so far are kept.
    """
    most = k * int(held_out.sum())
    largest = torch.empty(0)
    for sources in data.selected(held_out, batch):
        rows = dictionary.standardise(sources)
        scores, _ = dictionary.score(rows)
        floor = float(largest.min()) if len(largest) == most else 0.0
        largest = torch.cat([largest, scores.at_least(floor)[1].cpu()])
        if len(largest) > most:
            largest = largest.topk(most, sorted=False).values
    return float(largest.min()) if len(largest) else 0.0
