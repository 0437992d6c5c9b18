"""Fit a dictionary on activation shards: gradient steps, checkpoints, and the threshold at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from moediff import checkpoint
from moediff.activations import AlignedRows, held_out_documents
from moediff.dictionary import Dictionary, Shape
from moediff.errors import Diverged
from moediff.progress import Progress, log
from moediff.sparse import top_entries

HISTORY = {
    "step": pl.Int64,
    "rows": pl.Int64,
    "fve": pl.Float64,
    "l0": pl.Float64,
    "dead_share": pl.Float64,
    "learning_rate": pl.Float64,
}
POINTS = 100  # of the history, at most


class Fitter:
    """A dictionary in training: one step at a time, its whole state in tensors.

    The loss of a batch is the squared error of standardised rows over the number of sources, which
    is 1 - pooled FVE of the batch, plus AuxK (2406.04093, appendix A.2): dead features, at most
    `aux_k` a row by score, rebuild what is left of the row, without bias. The gradient of AuxK
    reaches their encoders and decoders and nothing else.
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
        panels = model.panels()
        before = model.preactivations(rows, panels)
        norms = model.norms().sum(1)
        scores = model.scores(before, norms)
        entries, self.edge = top_entries(scores, recipe["k"] * size, 0.9 * self.edge)
        values = model.values(before, rows, entries, panels)
        residual = rows - model.decode(values, entries, size, panels)
        error = residual.square().sum()
        loss = error / (size * sources)
        self._count_silent(entries[1], size)
        dead = (self.silent > self.dead_after).nonzero().squeeze(1)
        if len(dead) and recipe["aux_weight"]:
            loss = loss + recipe["aux_weight"] * self._auxiliary(
                rows, residual.detach(), dead, norms
            )
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

    def _count_silent(self, features: Tensor, size: int) -> None:
        self.silent += size
        self.silent[features] = 0

    def _auxiliary(self, rows: Tensor, residual: Tensor, dead: Tensor, norms: Tensor) -> Tensor:
        """Share of the residual's sum of squares that the dead features leave: dense over them alone."""
        model = self.dictionary
        predicted = torch.zeros_like(residual)
        codes = []
        for panel in model.panels():
            start, stop = panel.features.start, panel.features.stop
            local = dead[(dead >= start) & (dead < stop)]
            if len(local):
                encoder = panel.encoder.index_select(0, local - start)
                bias = model.encoder_bias.index_select(0, local)
                codes.append((panel, local, (rows[:, panel.columns] @ encoder.T + bias).relu()))
        scores = torch.cat([code.detach() * norms[local] for _, local, code in codes], dim=1)
        keep = _largest_of_each_row(scores, self.aux_k)
        parts = keep.split([len(local) for _, local, _ in codes], dim=1)
        for (panel, local, code), kept in zip(codes, parts, strict=True):
            decoder = panel.decoder.index_select(0, local - panel.features.start)
            decoded = (code * kept) @ decoder
            left = panel.columns.start
            right = residual.shape[1] - left - decoded.shape[1]
            predicted = predicted + nn.functional.pad(decoded, (left, right))
        return (residual - predicted).square().sum() / residual.square().sum().clamp_min(1e-12)

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
    for done in _train(fitter, batches, history, device, progress, name):
        if done in _saves(fitter.steps, recipe["checkpoints"]):
            checkpoint.save(state, done, fitter.state(), {"history": history})
    progress.close()
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
    panels, norms = dictionary.panels(), dictionary.norms().sum(1)
    largest = torch.empty(0)
    for sources in data.selected(held_out, batch):
        rows = dictionary.standardise(sources)
        scores = dictionary.scores(dictionary.preactivations(rows, panels), norms).flatten()
        floor = largest.min() if len(largest) == most else 0.0
        largest = torch.cat([largest, scores[scores > floor].cpu()])
        if len(largest) > most:
            largest = largest.topk(most, sorted=False).values
    return float(largest.min()) if len(largest) else 0.0
