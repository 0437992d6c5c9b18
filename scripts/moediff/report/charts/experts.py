"""Experts and features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from moediff.config.layout import Member
from moediff.report.charts import Tables
from moediff.report.labels import class_names, sides_of
from moediff.report.theme import Size, class_colour, class_colours, heading

LEGEND = 100  # pixels beside the chart, over which its title may reach


def affinity(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of every MoE of the dictionary that is looked at."""
    (features,) = tables["features"]
    _, member, *_ = settings["drawn"]
    sources = [source.name for source in Member.parse("", member).sources]
    sides = sides_of(member)
    classes = features.select("feature", "class")
    told = [
        table.select("feature", "layer", "corrected")
        .join(classes, on="feature")
        .with_columns(model=pl.lit(sides[sources.index(source)]))
        for table, source in zip(tables["affinity"], settings["routed"], strict=True)
    ]
    return affinity_chart(pl.concat(told), sides, size)


def affinity_chart(affinity: pl.DataFrame, sides: Sequence[str], size: Size) -> alt.Chart:
    """What firing tells of the expert chosen, within token id, by MoE, its layer and class of feature.

    affinity: model (one of `sides`, the names of the two sources), layer, corrected (nats, of the
    feature's expert), class. Features of the other model alone are the control: what they tell goes
    through the text.
    """
    names = class_names(sides)
    known = affinity.select("model", "layer", "class", "corrected").drop_nulls().drop_nans()
    found = (
        known.filter(pl.col("class") != "dead")
        .with_columns(pl.col("class").replace(names))
        .group_by("model", "layer", "class")
        .agg(
            pl.col("corrected").median().alias("median"),
            pl.col("corrected").quantile(0.25, "linear").alias("low"),
            pl.col("corrected").quantile(0.75, "linear").alias("high"),
            features=pl.len(),
        )
        .sort("model", "layer", "class")
    )
    order = list(class_colours(names))
    seen = [name for name in order if name in found["class"].to_list()]
    base = alt.Chart(found).encode(
        alt.X("layer:O", title="MoE layer").axis(labelAngle=0),
        alt.XOffset("class:N", sort=seen),
        class_colour(names, found),
        tooltip=[
            "model", "layer", "class", "features",
            *[alt.Tooltip(name, format=".2e") for name in ("low", "median", "high")],
        ],
    )  # fmt: skip
    y = alt.Y("low:Q", title="information above chance (nats a row)").axis(format="~g")
    spread = base.mark_rule(strokeWidth=5, opacity=0.45).encode(y, alt.Y2("high:Q"))
    middle = base.mark_point(filled=True, size=70, opacity=1).encode(alt.Y("median:Q"))
    zero = alt.Chart(found).mark_rule(color="#555", aria=False).encode(alt.YDatum(0))
    control = "; ".join(
        f"control of {model}: only {other}"
        for model, other in (tuple(sides), tuple(sides[::-1]))
        if model in found["model"].to_list()
    )
    return (
        (zero + spread + middle)
        .properties(**size)
        .facet(
            row=alt.Row("model:N", title=None).header(
                labelAngle=0,
                labelAnchor="start",
                labelOrient="top",
                labelExpr="'experts of ' + datum.value",
            ),
            title=heading(
                _title(found, sides),
                size["width"] + LEGEND,
                "the one that a feature knows best, within token id; more for features that fire more often",
                f"a point: the median feature, a bar: quartiles; {control}",
            ),
        )
    )


def _title(found: pl.DataFrame, sides: Sequence[str]) -> str:
    """Of the layer where an MoE's own features exceed the other model's most."""
    medians = {
        (row["model"], row["layer"], row["class"]): row["median"]
        for row in found.iter_rows(named=True)
    }
    both = [
        (
            medians[model, layer, f"only {model}"],
            medians[model, layer, f"only {other}"],
            layer,
            model,
        )
        for model, other in (tuple(sides), tuple(sides[::-1]))
        for layer in sorted(found["layer"].unique())
        if {(model, layer, f"only {name}") for name in sides} <= medians.keys()
    ]
    if found.is_empty():
        return f"No experts of {' or '.join(sides)} are stored"
    if not both:
        return "No layer has features of both models alone to compare"
    own, others, layer, model = max(both, key=lambda row: row[0] - row[1])
    other = sides[1] if model == sides[0] else sides[0]
    largest = max(abs(own), abs(others))
    digits = max(2 - math.floor(math.log10(largest)), 0) if largest else 0
    return (
        f"In layer {layer} of {model} firing of its own features tells {own:.{digits}f} nats of the "
        f"expert, of {other}'s own {others:.{digits}f}"
    )
