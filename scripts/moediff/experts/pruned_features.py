"""Which features an MoE without some of its experts still has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import polars as pl
import torch
from torch import Tensor

from moediff.activations.rows import AlignedRows
from moediff.analysis.reruns import Rerun, StoredPass, refuse_another_model, stored_passes
from moediff.core.errors import UserError
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.experts.pruning import Choice, Usage, left_out, without
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point
from moediff.models.families import top_k


@torch.no_grad()
def pruned_features(
    dictionary: Dictionary,
    data: AlignedRows,
    source: int,
    again: Rerun,
    usage: Mapping[int, Usage],
    choice: Choice,
    device: torch.device,
) -> pl.DataFrame:
    """One row for each score, share that is kept, and feature: what of its firing is lost and what is new.

    `usage` of all text chooses the experts that go, in every MoE layer. Counted are the rows of the source
    on which the feature fires with the model whole; the other sources' rows stay as they are. Columns:
    `score`, `keep`, `feature`, `fired` (rows), `lost` (share of them on which it fires no more), `gained`
    (rows on which it fires that it did not, as a share of them); null where it never fired. One pass up to
    the hook for each choice. Raises UserError where no MoE layer lies before the hook."""
    point = Point.named(data.origins[source]["hook"])
    dictionary = in_float64(dictionary, device)
    size, least = dictionary.shape.features, top_k(again.model) or 1
    if not any(layer < point.feed_forwards for layer in usage):
        raise UserError(f"{type(again.model).__name__}: no layer has experts below {point}")
    wanted = {
        (score, keep): left_out(usage, score, keep, least, choice.protect)
        for score, keep in product(choice.scores, choice.keep)
    }
    wanted = {name: gone for name, gone in wanted.items() if any(gone.values())}
    fired = np.zeros(size)
    lost, gained = ({name: np.zeros(size) for name in wanted} for _ in range(2))
    with Capture(again.model, [point]) as capture:
        for run in stored_passes(data, source, again, "features without experts"):
            rows = _rows(capture, point, run, device)
            refuse_another_model(rows, run.sources[source], source)
            before = _firing(dictionary, run, source, rows)
            fired += np.bincount(before % size, minlength=size)
            for name, gone in wanted.items():
                with without(again.model, gone):
                    after = _firing(dictionary, run, source, _rows(capture, point, run, device))
                for sums, some in (
                    (lost[name], np.setdiff1d(before, after, assume_unique=True)),
                    (gained[name], np.setdiff1d(after, before, assume_unique=True)),
                ):
                    sums += np.bincount(some % size, minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        tables = [
            pl.DataFrame(
                {
                    "score": [score] * size,
                    "keep": [keep] * size,
                    "feature": np.arange(size),
                    "fired": fired.astype(np.int64),
                    "lost": np.where(fired > 0, lost[score, keep] / fired, np.nan),
                    "gained": np.where(fired > 0, gained[score, keep] / fired, np.nan),
                }
            )
            for score, keep in wanted
        ]
    return (
        pl.concat(tables).with_columns(pl.selectors.float().fill_nan(None)) if tables else _none()
    )


def _none() -> pl.DataFrame:
    names: Sequence[str] = ("score", "keep", "feature", "fired", "lost", "gained")
    return pl.DataFrame(schema=dict.fromkeys(names, pl.Float64))


def _rows(capture: Capture, point: Point, run: StoredPass, device: torch.device) -> Tensor:
    """Rows [row, d] of a pass at the point, as the model now is."""
    values = capture(**run.run.inputs).points[point].flatten(0, 1)
    return values[run.place.to(values.device)].to(device).double()


def _firing(dictionary: Dictionary, run: StoredPass, source: int, rows: Tensor) -> np.ndarray:
    """Row times F plus feature [firing], of a pass with `rows` [row, d] in the place of one source's."""
    given = [part.to(rows.device) for part in run.sources]
    given[source] = rows
    row, feature = dictionary.encode(dictionary.standardise(given))[0]
    return (row * dictionary.shape.features + feature).cpu().numpy()
