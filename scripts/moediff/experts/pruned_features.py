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
from moediff.dictionaries.dense import Tables
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.scores import backend
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
    on which the feature fires with the model whole; the other sources' rows stay as they are, and hold up
    what fires on them too: so `drive` looks at the source's own part of pre-activations alone. Columns:
    `score`, `keep`, `feature`, `fired` (rows), `lost` (share of them on which it fires no more), `gained`
    (rows on which it fires that it did not, as a share of them), `drive` (what is left of the sum over them
    of encoder times the source's row, as a share of what it was; null where that was not above 0); null
    where it never fired. One pass up to the hook for each choice. Raises UserError where no MoE layer lies
    before the hook.
    """
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
    found = _Firings(dictionary, source)
    names = ("lost", "gained", "drive")
    fired, whole = np.zeros(size), np.zeros(size)
    sums = {choice: {name: np.zeros(size) for name in names} for choice in wanted}
    with Capture(again.model, [point]) as capture:
        for run in stored_passes(data, source, again, "features without experts"):
            rows = _rows(capture, point, run, device)
            refuse_another_model(rows, run.sources[source], source)
            before, joint = found.of(run, rows)
            fired += np.bincount(before % size, minlength=size)
            whole += found.drive(joint, before)
            for name, gone in wanted.items():
                with without(again.model, gone):
                    after, joint = found.of(run, _rows(capture, point, run, device))
                lost = np.setdiff1d(before, after, assume_unique=True)
                gained = np.setdiff1d(after, before, assume_unique=True)
                sums[name]["lost"] += np.bincount(lost % size, minlength=size)
                sums[name]["gained"] += np.bincount(gained % size, minlength=size)
                sums[name]["drive"] += found.drive(joint, before)
    below = {"lost": fired, "gained": fired, "drive": np.maximum(whole, 0)}
    with np.errstate(invalid="ignore", divide="ignore"):
        tables = [
            pl.DataFrame(
                {
                    "score": [score] * size,
                    "keep": [keep] * size,
                    "feature": np.arange(size),
                    "fired": fired.astype(np.int64),
                    **{
                        name: np.where(below[name] > 0, total / below[name], np.nan)
                        for name, total in own.items()
                    },
                }
            )
            for (score, keep), own in sums.items()
        ]
    return (
        pl.concat(tables).with_columns(pl.selectors.float().fill_nan(None)) if tables else _none()
    )


def _none() -> pl.DataFrame:
    names: Sequence[str] = ("score", "keep", "feature", "fired", "lost", "gained", "drive")
    return pl.DataFrame(schema=dict.fromkeys(names, pl.Float64))


def _rows(capture: Capture, point: Point, run: StoredPass, device: torch.device) -> Tensor:
    """Rows [row, d] of a pass at the point, as the model now is."""
    values = capture(**run.run.inputs).points[point].flatten(0, 1)
    return values[run.place.to(values.device)].to(device).double()


class _Firings:
    """What a dictionary fires on the rows of a pass, one source's put in their place."""

    def __init__(self, dictionary: Dictionary, source: int) -> None:
        self.dictionary, self.source = dictionary, source
        self.size, self.columns = dictionary.shape.features, dictionary.shape.columns(source)
        self.encoder = Tables.of(dictionary).encoder[:, self.columns].contiguous()  # [F, d]

    def of(self, run: StoredPass, rows: Tensor) -> tuple[np.ndarray, Tensor]:
        """Row times F plus feature [firing], with `rows` [row, d] as the source's; what was encoded [row,
        D]."""
        given = [part.to(rows.device) for part in run.sources]
        given[self.source] = rows
        joint = self.dictionary.standardise(given)
        row, feature = self.dictionary.encode(joint)[0]
        return (row * self.size + feature).cpu().numpy(), joint

    def drive(self, joint: Tensor, firing: np.ndarray) -> np.ndarray:
        """Of each feature [F] the sum over its firings of encoder times the source's part of `joint` [row,
        D]."""
        rows = joint[:, self.columns].contiguous()
        places = torch.from_numpy(firing).to(rows.device)
        row, feature = places // self.size, places % self.size
        dots = backend(rows).row_dots(rows, self.encoder, (row, feature)).cpu().numpy()
        return np.bincount(feature.cpu().numpy(), dots, self.size)
