"""Experts and features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from moediff.report.charts import Tables
from moediff.report.theme import KIND_COLOURS, Size, class_colour

# What a class is called where the MoE is the first source and the dense model the second.
KINDS = {"A-only": "MoE-only", "B-only": "dense-only"}


def affinity(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of the MoE of the dictionary that is looked at."""
    (features,), (told,) = tables["features"], tables["affinity"]
    classes = features.select("feature", pl.col("class").replace(KINDS))
    return affinity_chart(
        told.select("feature", "layer", "corrected").join(classes, on="feature"), size
    )


def affinity_chart(affinity: pl.DataFrame, size: Size) -> alt.Chart:
    """What firing tells of the expert chosen, within token id, by MoE layer and class of feature.

    affinity: layer, corrected (nats, of the feature's expert), class, one of KIND_COLOURS. Features of
    the dense model alone are the control: what they tell goes through the text.
    """
    known = affinity.select("layer", "class", "corrected").drop_nulls().drop_nans()
    found = (
        known.filter(pl.col("class").is_in(list(KIND_COLOURS)))
        .group_by("layer", "class")
        .agg(
            pl.col("corrected").median().alias("median"),
            pl.col("corrected").quantile(0.25, "linear").alias("low"),
            pl.col("corrected").quantile(0.75, "linear").alias("high"),
            features=pl.len(),
        )
        .sort("layer", "class")
    )
    medians = {(row["layer"], row["class"]): row["median"] for row in found.iter_rows(named=True)}
    both = [layer for layer in found["layer"].unique().sort()
            if {(layer, "MoE-only"), (layer, "dense-only")} <= medians.keys()]  # fmt: skip
    title = "No layer has features of both models alone to compare"
    if both:
        layer = max(both, key=lambda n: medians[n, "MoE-only"] - medians[n, "dense-only"])
        moe, dense = medians[layer, "MoE-only"], medians[layer, "dense-only"]
        largest = max(abs(moe), abs(dense))
        digits = max(2 - math.floor(math.log10(largest)), 0) if largest else 0
        title = (
            f"In layer {layer} firing of MoE-only features tells {moe:.{digits}f} nats of the expert, "
            f"of dense-only ones {dense:.{digits}f}"
        )
    seen = [name for name in KIND_COLOURS if name in found["class"].to_list()]
    base = alt.Chart(found).encode(
        alt.X("layer:O", title="MoE layer").axis(labelAngle=0),
        alt.XOffset("class:N", sort=seen),
        class_colour(KIND_COLOURS, found),
        tooltip=[
            "layer", "class", "features",
            *[alt.Tooltip(name, format=".2e") for name in ("low", "median", "high")],
        ],
    )  # fmt: skip
    y = alt.Y("low:Q", title="information above chance (nats a row)").axis(format="~g")
    spread = base.mark_rule(strokeWidth=5, opacity=0.45).encode(y, alt.Y2("high:Q"))
    middle = base.mark_point(filled=True, size=70, opacity=1).encode(alt.Y("median:Q"))
    zero = alt.Chart(pl.DataFrame({"low": [0.0]})).mark_rule(color="#555").encode(alt.Y("low:Q"))
    return (zero + spread + middle).properties(
        title=alt.TitleParams(
            title,
            subtitle=[
                "the one that a feature knows best, within token id; more for features that fire more often",
                "a point: the median feature, a bar: quartiles; dense-only: the control",
            ],
        ),
        **size,
    )
