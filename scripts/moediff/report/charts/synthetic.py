"""Methods compared where the truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from moediff.report.charts import Tables
from moediff.report.theme import Size


def planted(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of all planted worlds."""
    (table,) = tables["planted"]
    return planted_chart(table, size)


def planted_chart(table: pl.DataFrame, size: Size) -> alt.Chart:
    """Precision against recall of every method at its threshold in use, one panel a factor.

    table: factor, level, part, method, in_use, precision, recall, f1; means over the seeds for scoring.
    """
    shown = table.filter(pl.col("part") == "score", pl.col("in_use"))
    means = (
        shown.group_by("factor", "level", "method", maintain_order=True)
        .agg(pl.col("precision", "recall").mean())
        .drop_nulls()  # nothing attributed, or nothing planted
    )
    f1 = shown.group_by("method").agg(pl.col("f1").mean()).drop_nulls().sort("f1", "method")
    (best, high), (worst, low) = (f1.row(place) for place in (-1, 0))
    axis = alt.Scale(domain=[0, 1])
    return (
        alt.Chart(means)
        .mark_point(filled=True, size=60, opacity=0.8)
        .encode(
            alt.X("recall:Q", title="planted unique features recovered").scale(axis),
            alt.Y("precision:Q", title="unique attributions that are right").scale(axis),
            alt.Color("method:N", title="method"),
            alt.Shape("level:N", title="level"),
            tooltip=[
                "method",
                "factor",
                "level",
                alt.Tooltip("precision", format=".2f"),
                alt.Tooltip("recall", format=".2f"),
            ],
        )
        .properties(width=size["width"] // 2, height=size["height"])
        .facet(alt.Facet("factor:N", title=None, sort=None), columns=3)
        .resolve_scale(shape="independent")
        .properties(
            title=f"Of planted unique features {best} finds most (F1 {high:.2f}), {worst} least ({low:.2f})"
        )
    )
