"""The panel beside all other labellings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from moediff.analysis.panel import EITHER, drawn_rows, null_rows
from moediff.claims.verdicts import ALPHA
from moediff.report.charts import Tables
from moediff.report.labels import label_of
from moediff.report.theme import COLOURS, Size, heading, room

NAMES = 160  # pixels that names of kinds take beside the chart


def panel(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of every panel."""
    (found,) = tables["panels"]
    splits = [
        drawn_rows(
            label_of(one),
            null_rows(one["groups"], one["kinds"]),
            one["judged"],
        )
        for one in found["panels"]
    ]
    return panel_chart(pl.concat(splits), size)


def panel_chart(splits: pl.DataFrame, size: Size) -> alt.Chart:
    """What is one kind's own under the true labels and under every other, one row a statistic's side.

    splits: dictionary, side, share, features, true (one row a labelling and side), and low and high,
    the interval of a share under the true labels, or null.
    """
    names = splits["dictionary"].unique(maintain_order=True).to_list()
    said = "share of the models' variance that goes with the features"
    base = alt.Chart(splits).encode(
        alt.X("share:Q", title=said).axis(format=".1~%", tickCount=6),
        alt.Y("side:N", title=None, sort=alt.SortField("true")),
        tooltip=["side", alt.Tooltip("share", format=".3%"), "features"],
    )
    null = base.transform_filter("!datum.true").mark_tick(thickness=1.5, color="#777", opacity=0.7)
    truth = base.transform_filter("datum.true")
    point = truth.mark_point(shape="diamond", size=130, filled=True, color=COLOURS[1], opacity=1)
    interval = truth.mark_rule(color=COLOURS[1], strokeWidth=2).encode(
        alt.X("low:Q", title=said), alt.X2("high:Q")
    )
    return (
        (null + interval + point)
        .properties(width=size["width"], height=110)
        .facet(
            row=alt.Row("dictionary:N", title=None, sort=names).header(
                labelAngle=0, labelAnchor="start", labelOrient="top", labelPadding=2
            ),
            title=heading(
                _panel_title(splits),
                size["width"] + NAMES,
                "diamond: the true labels, line: interval over groups of documents, ticks: other labels",
            ),
        )
        .resolve_scale(y="independent")
        .properties(padding=room(splits["side"]))
    )


def _panel_title(splits: pl.DataFrame) -> str:
    """What the panels say of either kind; of several, only those with labels enough for p of ALPHA count."""
    either = splits.filter(pl.col("side") == EITHER)
    others = either.filter(~pl.col("true")).group_by("dictionary").agg(
        pl.col("share").max().alias("most"), pl.len().alias("others")
    )  # fmt: skip
    found = either.filter(pl.col("true")).join(others, on="dictionary")
    found = found.with_columns(above=pl.col("share") > pl.col("most"))
    if len(found) == 1:
        share, many, above = found.select("share", "others", "above").row(0)
        told = "more than" if above else "not more than"
        return (
            f"Features of one kind alone carry {100 * share:.2f} % of its variance, "
            f"{told} under any of {many} other labels"
        )
    telling = found.filter(1 / (pl.col("others") + 1) <= ALPHA)
    few = len(found) - len(telling)
    return (
        "Features of one kind alone carry more than under any other labels in "
        f"{telling['above'].sum()} of {len(telling)} panels"
        + (f"; too few models to tell in {few} more" if few else "")
    )
