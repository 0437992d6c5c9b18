"""Charts of dictionaries: variance explained, its frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from moediff.analysis.measured import POOLED, THRESHOLD
from moediff.report.charts import Tables
from moediff.report.labels import labelled
from moediff.report.theme import Size, heading, room, spread_out

NAMES = 300  # pixels that names of dictionaries take beside a chart, as a rule
# Of variance left unexplained: the least that is drawn, and the ticks.
LEFT_LEAST = 1e-3
LEFT_TICKS = [2.0, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001]


def fve(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of each comparison and recipe the first seeds: the others differ by a line's width."""
    first = _pooled(tables).unique(["comparison", "recipe"], keep="first", maintain_order=True)
    return fve_chart(first, size)


def frontier(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of all dictionaries over the sources of the one that is looked at."""
    _, member, *_ = settings["drawn"]
    return frontier_chart(_pooled(tables).filter(pl.col("member") == member), size)


def _pooled(tables: Tables) -> pl.DataFrame:
    """Rows over all sources of a dictionary, as it fires at inference."""
    (found,) = tables["fve"]
    return pl.DataFrame(found["rows"]).filter(
        pl.col("source") == POOLED, pl.col("mode") == THRESHOLD
    )


def fve_chart(rows: pl.DataFrame, size: Size) -> alt.Chart:
    """Variance explained by each dictionary, pooled, beside principal components of equal k.

    rows: comparison, member, recipe, seed, k, fve, baseline_mean, baseline_pca.
    """
    named = labelled(rows)
    kinds = {"fve": "dictionary, k active", "baseline_pca": "k principal components",
             "baseline_mean": "mean of the fit rows"}  # fmt: skip
    tidy = named.unpivot(
        list(kinds), index=["dictionary", "k"], variable_name="kind", value_name="value"
    ).with_columns(pl.col("kind").replace(kinds))
    worst = rows.with_columns((pl.col("fve") - pl.col("baseline_pca")).alias("gain"))["gain"].min()
    shown = alt.Chart(tidy).encode(
        alt.Y("dictionary:N", title=None, sort=named["dictionary"].to_list()).axis(
            labelLimit=400, grid=True
        ),
        alt.X("value:Q", title="fraction of validation variance explained")
        .scale(zero=True)
        .axis(tickCount=6),
        tooltip=["dictionary", "k", "kind", alt.Tooltip("value", format=".4f")],
    )
    points = shown.mark_point(size=60, filled=True, opacity=1).encode(
        alt.Color("kind:N", title=None).scale(domain=list(kinds.values())).legend(orient="top"),
        alt.Shape("kind:N", title=None).scale(domain=list(kinds.values())),
    )
    # Beside the chart: next to their marks two close numbers would lie over each other.
    numbers = named.select("dictionary", "fve", "baseline_pca")
    text = (
        alt.Chart(numbers)
        .transform_calculate(
            said="format(datum.fve, '.3f') + ' (PCA ' + format(datum.baseline_pca, '.3f') + ')'"
        )
        .mark_text(align="left", dx=8, color="#222", fontSize=11)
        .encode(
            alt.Y("dictionary:N", sort=numbers["dictionary"].to_list()),
            x=alt.value(size["width"]),
            text="said:N",
        )
    )
    title = f"Every dictionary explains at least {worst:+.3f} beyond principal components"
    if worst < 0:
        title = f"A dictionary falls {-worst:.3f} short of principal components"
    return (points + text).properties(
        title=heading(title, size["width"] + NAMES),
        width=size["width"],
        height={"step": 18},
        padding=room(named["dictionary"]),
    )


def frontier_chart(rows: pl.DataFrame, size: Size) -> alt.Chart:
    """Variance explained against features active, of the dictionaries of one comparison.

    rows: comparison, member, recipe, seed, k, l0, fve, baseline_mean, baseline_pca (pooled). What is left
    unexplained is on a log axis, since dictionaries differ there; ticks say what is explained. A recipe's
    name stands beside the mean of its dictionaries.
    """
    best = rows.sort("fve", "recipe").row(-1, named=True)
    gain = best["fve"] - best["baseline_pca"]
    title = (
        f"{best['recipe']} explains most, {best['fve']:.3f} at L0 {best['l0']:.1f}: {gain:+.3f} "
        f"beyond {best['k']} principal components"
    )
    left = (1 - pl.col("fve")).clip(LEFT_LEAST).alias("left")
    each = rows.select("recipe", "member", "seed", "l0", "fve", left)
    pca = rows.group_by("k").agg(pl.col("baseline_pca").mean().alias("fve")).sort("k")
    pca = pca.select(pl.col("k").cast(pl.Float64).alias("l0"), left)
    level = 1 - rows["baseline_mean"].mean()
    every = [*each["left"], *pca["left"], level]
    bottom, top = 1.15 * max(every), 0.8 * min(every)  # of the picture
    span = [0.6 * min(rows["l0"].min(), pca["l0"][0]), 3 * max(rows["l0"].max(), pca["l0"][-1])]
    x = alt.X("l0:Q", title="features active on a row (L0); components of the PCA").scale(
        type="log", domain=span, nice=False
    )
    y = (
        alt.Y("left:Q", title="fraction of validation variance explained")
        .scale(type="log", domain=[top, bottom], nice=False, reverse=True)
        .axis(values=LEFT_TICKS, labelExpr="format(1 - datum.value, '.3~f')")
    )
    colour = alt.Color("recipe:N", legend=None)
    tooltip = ["recipe", "member", "seed", "l0", "fve"]
    points = alt.Chart(each).mark_point(filled=True, size=45, opacity=0.7)
    # A column: recipes of about the same L0, whose names would lie over each other.
    apart = (pl.col("l0") > 1.3 * pl.col("l0").shift(1)).fill_null(False).cum_sum()
    means = each.group_by("recipe").agg(pl.col("l0", "left").mean()).sort("l0", "recipe")
    least = 13 * math.log(bottom / top) / size["height"]  # the height of a name
    named = pl.concat(
        column.sort("left", descending=True).with_columns(
            pl.Series("place", spread_out(sorted(-column["left"].log()), least, -math.log(top))),
            pl.lit(1.15 * column["l0"].max()).alias("edge"),
        )
        for column in means.with_columns(apart.alias("column")).partition_by("column")
    ).with_columns((-pl.col("place")).exp())
    names = alt.Chart(named.drop("column"))
    text = names.mark_text(align="left", dx=3, fontSize=11, color="#222")
    leader = names.mark_rule(opacity=0.7).encode(
        alt.X("l0:Q"), alt.Y("left:Q"), colour, alt.X2("edge:Q"), alt.Y2("place:Q")
    )
    grey = {"color": "#555", "fontSize": 11, "align": "left"}
    base = alt.Chart(pca).encode(x, y)
    line = base.mark_line(color="#555", strokeDash=[4, 3], point={"color": "#555", "size": 25})
    last = base.transform_filter(f"datum.l0 == {pca['l0'][-1]}").mark_text(dx=7, dy=4, **grey)
    mean = alt.Chart(pl.DataFrame({"left": [level], "l0": [span[0]]})).encode(y)
    return (
        mean.mark_rule(color="#555")
        + mean.mark_text(dx=6, dy=-8, **grey).encode(x, text=alt.value("mean of the fit rows"))
        + line
        + last.encode(text=alt.value("k principal components"))
        + leader
        + points.encode(x, y, colour, tooltip=tooltip)
        + text.encode(alt.X("edge:Q"), alt.Y("place:Q"), text="recipe:N")
    ).properties(title=heading(title, size["width"]), **size)
