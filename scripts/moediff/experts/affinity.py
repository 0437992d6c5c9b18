"""Experts and features: what does a feature's firing tell of the experts that were chosen?

**Information, within token id.** Routing and features both follow the token, so a feature of one
word and an expert for that word share information that says nothing of experts. What counts is

    I(firing; expert | token) = sum over t of p(t) I(firing; expert | token t)      [nats]

over the rows of token ids that occur twice or more (one row of an id says nothing). A feature fires
or not, by its threshold; an expert is among those that a row used or not. The routing is one
source's, the same for all features, so that features of a dense model are the control: what they
have goes through context alone.

**Its null is exact.** Many small strata bias the plug-in value upwards, and Miller and Madow's term,
made for large samples, does not take that away. Under the null the experts of the rows of one token
id are shuffled. The margins of the 2 x 2 table of an id (n rows, a firings, b choices) then stay,
and the joint count is hypergeometric: mean and variance of the information are sums over its
support (the mean is that of the adjusted mutual information, Vinh et al. 2010), and ids are
independent. Seeded shuffles would give the same with noise of their own and at many times the cost.
Corrected is the plug-in value less the null mean, z that over the null sd. With one firing or two
the null is skewed: z then has mean 0 and variance 1, but is no normal variable.

For the choice of a row as a whole (which set of experts), the mean would be as easy and the variance
not: there its null is estimated by seeded shuffles.

    F  features      E  experts      k  experts that a row uses
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch

from moediff.activations.rows import AlignedRows
from moediff.core.errors import UserError
from moediff.dictionaries.dictionary import Dictionary
from moediff.experts.information import Information, affinity, whole_choice
from moediff.experts.strata import strata_of_halves
from moediff.hooks.points import Point

NONE = -1  # the expert of a feature that has none
_NUMBERS = ("information", "null_mean", "null_sd", "corrected", "z")
COLUMNS = {
    **dict.fromkeys(("feature", "layer", "expert", "fired"), pl.Int64),
    **dict.fromkeys([*_NUMBERS, *(f"whole_{name}" for name in _NUMBERS)], pl.Float64),
}


def layers_of(data: AlignedRows, source: int) -> list[int]:
    """Layers of a source whose routing is stored and done by its hook point."""
    point = Point.named(data.origins[source]["hook"])
    return [layer for layer in data.sources[source][0].routed() if layer < point.feed_forwards]


def feature_affinity(
    dictionary: Dictionary,
    data: AlignedRows,
    source: int,
    layers: Sequence[int],
    batch: int,
    device: torch.device,
    scratch: Path | str | None = None,
) -> pl.DataFrame:
    """One row a feature and layer: the expert that its firing tells most of, and how much.

    The expert is the one with the largest corrected information over one half of the text; all
    numbers are of the other half, which shares no group of documents with it, so that the best of
    many is not better by chance. `source` is the MoE whose routing and token ids are taken.
    Columns: `feature`, `layer`, `expert` (null where none could be told), `fired` (in the measured
    half), `information`, `null_mean`, `null_sd`, `corrected`, `z` of that expert; the same of the
    whole choice, with `whole_` before. In nats. Without `layers` the table has no rows. Memory: see
    `affinity`; what grows with the rows lies in files under `scratch`. Raises UserError where a layer's
    routing is not stored, or lies behind the hook.
    """
    known = layers_of(data, source)
    for layer in layers:
        if layer not in known:
            stored = ", ".join(map(str, known)) or "none"
            raise UserError(
                f"source {source}: no routing of layer {layer} is stored below its hook point "
                f"(layers: {stored}); see activations.routing"
            )
    if not layers:
        return pl.DataFrame(schema=COLUMNS)
    halves, experts = strata_of_halves(dictionary, data, source, layers, batch, device, scratch)
    features = np.arange(dictionary.shape.features)
    tables = []
    for layer in layers:
        choosing, measured = (
            affinity(half.of(layer), len(features), experts[layer]) for half in halves
        )
        whole = whole_choice(halves[1].of(layer), len(features))
        best = _best(choosing)
        place = features, np.maximum(best, 0)
        columns = {
            "feature": features,
            "layer": np.full(len(features), layer),
            "expert": best,
            "fired": halves[1].fired,
        }
        for prefix, found, at in (("", measured, place), ("whole_", whole, ...)):
            columns |= {
                f"{prefix}information": found.value[at],
                f"{prefix}null_mean": found.null_mean[at],
                f"{prefix}null_sd": found.null_sd[at],
                f"{prefix}corrected": found.corrected[at],
                f"{prefix}z": found.z[at],
            }
        tables.append(_with_nulls(columns))
    return pl.concat(tables)


def _best(found: Information) -> np.ndarray:
    """Expert [F] of the largest corrected information; -1 where nothing could be seen of any."""
    corrected = np.where(found.null_sd > 0, found.corrected, -np.inf)
    return np.where((found.null_sd > 0).any(1), corrected.argmax(1), NONE)


def _with_nulls(columns: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """A table in which no expert, and what is of none, is null."""
    table = pl.DataFrame(columns)
    some = pl.col("expert") >= 0
    return table.with_columns(pl.when(some).then(pl.col("expert", *_NUMBERS))).with_columns(
        pl.selectors.float().fill_nan(None)
    )
