"""Streaming sums over rows: variance explained, L0, firing counts, baselines. All in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moediff.activations.groups import HALVES
from moediff.activations.moments import Moments
from moediff.activations.rows import HALF, AlignedRows
from moediff.analysis.measured import POOLED, THRESHOLD, Measured
from moediff.analysis.without_massive import WithoutMassive
from moediff.config.recipes import NONE
from moediff.core.errors import UserError
from moediff.core.progress import Progress
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.entries import Entries
from moediff.dictionaries.principal_components import Baseline
from moediff.dictionaries.selection import KEEPS_K


class VarianceExplained:
    """FVE = 1 - SSE / SST of rows [row, d], SST about `mean` [d]: a ratio of sums (decision 4).

    Exactly 0 for the prediction of `mean` everywhere and 1 for a perfect one, since both sums are
    taken in the same order. Equals sklearn's r2_score(multioutput="variance_weighted").
    """

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean.double()
        self.error = 0.0
        self.total = 0.0

    def add(self, rows: Tensor, reconstruction: Tensor) -> None:
        """Count rows [row, d] and their reconstruction."""
        rows = rows.double()
        self.error += float((rows - reconstruction.double()).square().sum())
        self.total += float((rows - self.mean).square().sum())

    @property
    def value(self) -> float:
        return 1.0 - self.error / self.total


def check_models(
    data: AlignedRows, facts: Mapping[str, Any], path: Path | str, part: slice = slice(None)
) -> None:
    """Refuse a dictionary fitted on other models, hook points or scales than those of the rows.

    `part` of the rows' sources are the dictionary's.
    """
    if data.origins[part] != facts["origins"]:
        raise UserError(
            f"{path}: fitted on other models or hook points than the validation rows come from; "
            f"remove it and run the same snakemake command again"
        )


def coded(
    dictionary: Dictionary, data: AlignedRows, batch: int, device: torch.device, name: str
) -> Iterator[tuple[Tensor, Entries, Tensor]]:
    """Standardised rows [row, D], entries and values [n] of each batch, in order.

    By the thresholds, all in float64, so that they cut every row the same way in any batch.
    """
    dictionary = in_float64(dictionary, device)
    progress = Progress(data.count, name, "rows")
    for sources in data.in_order(batch):
        rows = dictionary.standardise([part.to(device) for part in sources])
        entries, values = dictionary.encode(rows)
        yield rows, entries, values
        progress.advance(len(rows))
    progress.close()


def standard_moments(
    dictionary: Dictionary, data: AlignedRows, batch: int, device: torch.device
) -> tuple[Tensor, np.ndarray]:
    """Mean [D] of rows as a dictionary sees them, and each source's sum of squares about it [S].

    From the shards' own sums where it takes rows as they are stored, else by a pass.
    """
    dictionary = in_float64(dictionary, device)
    scale, moments = dictionary.scale.cpu().numpy(), data.moments()
    if dictionary.normaliser.name == NONE:
        means = [torch.from_numpy(mean)[None].to(device) for mean, _ in moments]
        totals = [data.count * part / scale[s] ** 2 for s, (_, part) in enumerate(moments)]
        return dictionary.standardise(means)[0], np.array(totals)
    columns = [dictionary.shape.columns(s) for s in range(len(scale))]
    sums = [Moments(width) for width in dictionary.shape.widths]
    for sources in data.in_order(batch):
        rows = dictionary.standardise([part.to(device) for part in sources]).cpu()
        for own, part in zip(sums, columns, strict=True):
            own.add(rows[:, part])
    mean = torch.from_numpy(np.concatenate([own.mean for own in sums])).to(device)
    return mean, np.array([own.spread.sum() for own in sums])


def measure(
    dictionary: Dictionary,
    baseline: Baseline | None,
    data: AlignedRows,
    names: Sequence[str],
    recipe: Mapping[str, Any],
    device: torch.device,
) -> Measured:
    """FVE, L0 and firings of a dictionary on the validation rows, and its baselines' FVE.

    By the threshold, which firings are counted of, and, where the recipe keeps k features, also by
    its own selection. Without a `baseline` by the threshold alone, of no baseline, and
    with all rows.

    Batches have the recipe's rows whatever the chunks and shards, since a BatchTopK code depends on its
    batch. All arithmetic is float64, so that the threshold cuts every row the same way in any batch.
    """
    k, rule = recipe["k"], recipe["select"]
    modes = (THRESHOLD, rule) if rule in KEEPS_K and baseline else (THRESHOLD,)
    baselines = ("mean", "pca") if baseline else ()
    dictionary = in_float64(dictionary, device)
    shape = dictionary.shape
    mean, _ = standard_moments(dictionary, data, recipe["batch"], device)
    sums = {
        (method, name): VarianceExplained(mean[shape.columns(s)])
        for method in (*modes, *baselines)
        for s, name in enumerate(names)
    }
    active = dict.fromkeys(modes, 0)
    fired = torch.zeros(shape.features, dtype=torch.int64)
    activation = torch.zeros(shape.features, dtype=torch.float64)
    labels = [data.column_in_order(name, recipe["batch"]) for name in ("domain", HALF)]
    domain_rows = torch.zeros(HALVES * len(data.domains), dtype=torch.int64)
    fired_in = torch.zeros(HALVES * shape.features * len(data.domains), dtype=torch.int64)
    if baseline:
        baseline = baseline.to(device)
    widths = torch.tensor(shape.widths, device=device)
    scale = dictionary.scale.repeat_interleave(widths)  # [D]
    apart = (
        WithoutMassive(data, [shape.columns(s) for s in range(len(names))]) if baseline else None
    )
    progress = Progress(data.count, "evaluation", "rows")
    for sources, domain, half in zip(data.in_order(recipe["batch"]), *labels, strict=True):
        domain_rows += torch.bincount(half * len(data.domains) + domain, minlength=len(domain_rows))
        rows = dictionary.standardise([part.to(device) for part in sources])
        rebuilt = {}
        if baseline:
            rebuilt["mean"] = torch.zeros_like(rows)
            rebuilt["pca"] = baseline.reconstruct(rows, scale, k)
        scores, weight = dictionary.score_at_inference(rows)
        for mode in modes:
            select = None if mode == THRESHOLD else (mode, k)
            entries, values = dictionary.selected(scores, weight, select)
            rebuilt[mode] = dictionary.decode(values, entries, len(rows))
            active[mode] += len(values)
            if mode == THRESHOLD:
                features = entries[1].cpu()
                fired += torch.bincount(features, minlength=shape.features)
                activation.index_add_(0, features, values.cpu())
                row = entries[0].cpu()
                cell = (half[row] * shape.features + features) * len(data.domains) + domain[row]
                fired_in += torch.bincount(cell, minlength=len(fired_in))
        for (method, name), total in sums.items():
            columns = shape.columns(names.index(name))
            total.add(rows[:, columns], rebuilt[method][:, columns])
        if apart:
            apart.add(sources, rows, rebuilt)
        progress.advance(len(rows))
    progress.close()
    fve = {key: total.value for key, total in sums.items()}
    for method in (*modes, *baselines):
        fve[method, POOLED] = float(np.mean([fve[method, name] for name in names]))
    without: dict[tuple[str, str], float | None] = {}
    if apart and apart.count:
        for (method, name), total in sums.items():
            without[method, name] = apart.fve(
                method, names.index(name), total.error, total.total, total.mean, data.count
            )
        for method in (*modes, *baselines):
            each = [value for name in names if (value := without[method, name]) is not None]
            without[method, POOLED] = float(np.mean(each)) if len(each) == len(names) else None
    return Measured(
        fve=fve,
        l0={mode: count / data.count for mode, count in active.items()},
        fired=fired.numpy(),
        activation=activation.numpy(),
        fired_in=fired_in.view(HALVES, shape.features, -1).numpy(),
        domain_rows=domain_rows.view(HALVES, -1).numpy(),
        rows=data.count,
        massive_rows=apart.count if apart else 0,
        fve_without=without,
    )
