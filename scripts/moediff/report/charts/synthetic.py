"""Methods compared where the truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from moediff.report.charts import Tables
from moediff.report.labels import percent
from moediff.report.theme import COLOURS, Size, heading

ALONE = "alone"  # as `synthetic.grid` names a strength without end
EIGHTH = "#777777"  # there is a method more than colours of the theme


def planted(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.TopLevelMixin:
    """Of all planted worlds."""
    (table,) = tables["planted"]
    return planted_chart(table, size)


def planted_chart(table: pl.DataFrame, size: Size) -> alt.TopLevelMixin:
    """Every method at its threshold in use: precision against recall by factor, and recall by strength.

    table: factor, level, part, method, in_use, precision, recall, f1, planted, attributed; means over the
    seeds for scoring. By strength only where the worlds have several.
    """
    shown = table.filter(pl.col("part") == "score", pl.col("in_use"))
    false = _false(shown)
    drawn = [_rates(shown, false, size)]
    strengths = shown.filter(pl.col("factor") == "strength")
    if strengths["level"].n_unique() > 1:
        drawn.append(_power(strengths, false, size))
    return alt.vconcat(*drawn) if len(drawn) > 1 else drawn[0]


def _false(shown: pl.DataFrame) -> dict[str, float]:
    """Features that each method calls one kind's own in a world where nothing is, on average."""
    nothing = shown.filter(pl.col("planted") == 0).group_by("method", maintain_order=True)
    return dict(nothing.agg(pl.col("attributed").mean()).iter_rows())


def _rates(shown: pl.DataFrame, false: Mapping[str, float], size: Size) -> alt.FacetChart:
    varied = shown.filter(pl.col("level").n_unique().over("factor") > 1)
    means = (
        (varied if len(varied) else shown)
        .group_by("factor", "level", "method", maintain_order=True)
        .agg(pl.col("precision", "recall").mean())
        .drop_nulls()  # nothing attributed, or nothing planted
    )
    f1 = shown.group_by("method").agg(pl.col("f1").mean()).drop_nulls().sort("f1", "method")
    (best, high), (worst, low) = (f1.row(place) for place in (-1, 0))
    title = (
        f"Of planted unique features {best} finds most (F1 {high:.2f}), {worst} least ({low:.2f})"
    )
    told = ", ".join(f"{method} {count:.1f}" for method, count in false.items())
    beside = [f"Called one kind's own where nothing is, features a world: {told}"] if told else []
    axis = alt.Scale(domain=[0, 1])
    methods = shown["method"].unique(maintain_order=True).to_list()
    return (
        alt.Chart(means)
        .mark_point(filled=True, size=60, opacity=0.8)
        .encode(
            alt.X("recall:Q", title="planted unique features recovered").scale(axis),
            alt.Y("precision:Q", title="unique attributions that are right").scale(axis),
            alt.Color("method:N", title="method", sort=None).scale(
                domain=methods, range=[*COLOURS, EIGHTH]
            ),
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
        .properties(title=heading(title, 2 * size["width"], *beside))
    )


def _power(strengths: pl.DataFrame, false: Mapping[str, float], size: Size) -> alt.FacetChart:
    """Recall by how many times as much a feature explains in the kind whose own it is."""
    means = strengths.group_by("level", "method", maintain_order=True).agg(pl.col("recall").mean())
    levels = sorted(means["level"].unique(), key=_times)
    means = means.drop_nulls()  # at a strength of 1 nothing is planted
    named = {
        method: f"{method}: {false[method]:.1f} false" if method in false else method
        for method in means["method"].unique(maintain_order=True)
    }
    graded = [level for level in levels if 1 < _times(level) < float("inf")] or levels[-1:]
    middle = graded[len(graded) // 2]
    at = means.filter(pl.col("level") == middle).sort("recall", "method").row(-1, named=True)
    title = (
        f"Of features that explain {middle} times as much in one kind {at['method']} finds "
        f"{percent(at['recall'], 0)}, no other method more"
    )
    rows = means.with_columns(pl.col("method").replace_strict(named))
    return (
        alt.Chart(rows)
        .mark_line(point=True, color=COLOURS[0])
        .encode(
            alt.X("level:O", title="times as much explained", sort=levels),
            alt.Y("recall:Q", title="recovered").scale(domain=[0, 1]),
            tooltip=["method", "level", alt.Tooltip("recall", format=".2f")],
        )
        .properties(width=size["width"] // 2, height=size["height"] // 2)
        .facet(alt.Facet("method:N", title=None, sort=list(named.values())), columns=4)
        .properties(
            title=heading(
                title,
                2 * size["width"],
                "false: features a world that the method calls one kind's own where nothing is",
            )
        )
    )


def _times(level: str) -> float:
    return float("inf") if level == ALONE else float(level)
