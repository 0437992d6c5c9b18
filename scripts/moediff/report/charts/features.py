"""Charts of the features of one dictionary: tidy table -> Altair chart.

Every axis names its unit and every title says what is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from moediff.analysis.measured import LEAST_FIRINGS
from moediff.report.charts import Tables
from moediff.report.labels import class_names, dictionary_label, sides_of
from moediff.report.theme import Size, class_colour, class_colours, heading

BIN = 0.025  # of relative norm
LEGEND = 100  # pixels beside a chart, over which its title may reach
NU_MOST = 1.5  # a nu above it is drawn there
NUMBERS = (
    "class",
    "relative_norm",
    "density",
    "nu_error",
    "nu_reconstruction",
)  # of features, drawn here; some are of two sources alone


def relative_norm(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of the dictionary that is looked at, beside those over two seeds of one of its models."""
    features, null = (_called(tables[name], settings) for name in ("features", "null_features"))
    return relative_norm_chart(features, tuple(settings["bounds"]), _sides(settings), size, null)


def density(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of the dictionary that is looked at."""
    return density_chart(_called(tables["features"], settings), _sides(settings), size)


def scaling(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of the dictionary that is looked at."""
    return nu_chart(_called(tables["features"], settings), _sides(settings), size)


def _sides(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What the sources of the dictionary that is looked at are called."""
    _, member, *_ = settings["drawn"]
    return sides_of(member)


def _called(tables: Sequence[pl.DataFrame], settings: Mapping[str, Any]) -> pl.DataFrame | None:
    """Features of all tables under the name of the dictionary that is looked at; None without a table."""
    name = pl.lit(dictionary_label(*settings["drawn"])).alias("dictionary")
    known = [[column for column in NUMBERS if column in table.columns] for table in tables]
    rows = [table.select(*has, name) for table, has in zip(tables, known, strict=True)]
    return pl.concat(rows) if rows else None


def relative_norm_chart(
    features: pl.DataFrame,
    bounds: tuple[float, float],
    sides: Sequence[str],
    size: Size,
    null: pl.DataFrame | None = None,
) -> alt.Chart:
    """Histogram of relative decoder norms of live, untied features, one panel a dictionary.

    features: dictionary, class, relative_norm. sides: names of its two sources. null: the same features
    of dictionaries over two seeds of one kind, fitted by the same recipe; `dictionary` names the one whose
    null it is. Its histogram is drawn as a line, of as many features as the bars have.
    """
    live = _untied(features)
    title = f"{100 * _common(live):.0f} % of live untied features are common ({bounds[0]} to {bounds[1]})"
    bars = _histogram(live, ["dictionary", "class"])
    lines = bars.clear()
    subtitle = ""
    if null is not None:
        other = _untied(null)
        title += f", {100 * _common(other):.0f} % between two seeds of one kind"
        subtitle = "a line: two seeds of one kind, by the same recipe, as many features"
        lines = _null_lines(live, other)
    names = class_names(sides)
    rows = pl.concat([bars, lines], how="diagonal").with_columns(pl.col("class").replace(names))
    base = alt.Chart(rows)
    said = f"relative decoder norm (0: only {sides[0]}; 1: only {sides[1]})"
    x = alt.X("low:Q", bin="binned", title=said)
    y = alt.Y("features:Q", title="features")
    drawn = base.transform_filter("isValid(datum.class)").mark_bar().encode(
        x.scale(domain=[0, 1]),
        alt.X2("high:Q"),
        y.stack("zero"),
        class_colour(names, rows.drop_nulls("class")),
        tooltip=["class", "low", "high", "features"],
    )  # fmt: skip
    line = base.transform_filter("!isValid(datum.class)").mark_line(
        interpolate="step", color="black", strokeWidth=1.5
    ).encode(alt.X("middle:Q"), y)  # fmt: skip
    return (
        (drawn + line)
        .properties(**size)
        .facet(
            column=alt.Column("dictionary:N", title=None),
            title=heading(title, size["width"] + LEGEND, subtitle),
        )
        .resolve_scale(y="independent")
    )


def _untied(features: pl.DataFrame) -> pl.DataFrame:
    """Features that are alive and were free to be one source's alone."""
    return features.filter(~pl.col("class").is_in(["dead", "tied"]))


def _common(live: pl.DataFrame) -> float:
    """Share of features that are common."""
    return (live["class"] == "common").mean() if len(live) else 0.0


def _histogram(live: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Features in each bin of relative norm: `by`, low, middle, high, features."""
    last = round(1 / BIN) - 1
    place = (pl.col("relative_norm") / BIN).floor().clip(0, last)
    counted = live.with_columns(place.alias("bin")).group_by(*by, "bin").agg(features=pl.len())
    edges = {"low": 0.0, "middle": 0.5, "high": 1.0}
    return counted.select(
        *by,
        *[((pl.col("bin") + more) * BIN).round(6).alias(name) for name, more in edges.items()],
        pl.col("features").cast(pl.Float64),
    ).sort(*by, "low")


def _null_lines(live: pl.DataFrame, null: pl.DataFrame) -> pl.DataFrame:
    """The histogram of every dictionary's null, of as many features as it has; each bin has a row."""
    every = pl.DataFrame({"relative_norm": [(n + 0.5) * BIN for n in range(round(1 / BIN))]})
    drawn = null.select("dictionary").unique().join(every, how="cross")
    found = _histogram(pl.concat([null.select(drawn.columns), drawn]), ["dictionary"])
    count = {  # of features, without the one more a bin
        name: table.group_by("dictionary").agg(pl.len().alias(name))
        for name, table in (("have", live), ("null", null))
    }
    scaled = found.join(count["have"], on="dictionary").join(count["null"], on="dictionary")
    features = (pl.col("features") - 1) * pl.col("have") / pl.col("null")
    return scaled.with_columns(features.alias("features")).drop("have", "null")


def density_chart(features: pl.DataFrame, sides: Sequence[str], size: Size) -> alt.Chart:
    """How often features of each class fire: distribution of their density on a log axis.

    features: dictionary, class, density. sides: names of its sources.
    """
    names = class_names(sides)
    live = features.filter(pl.col("class") != "dead").select("dictionary", "class", "density")
    live = live.with_columns(pl.col("class").replace(names))
    medians = live.group_by("class").agg(pl.col("density").median()).sort("density", "class")
    order = medians["class"].to_list()
    if len(order) > 1:
        title = "Features that fire most often: " + " > ".join(reversed(order))
    elif order:
        title = f"Half of the live features fire on {medians['density'][0]:.2%} of rows or more"
    else:
        title = "No feature is alive"
    colours = class_colours(names)
    base = alt.Chart(live).encode(
        alt.Y("class:N", title=None, sort=list(colours)),
        alt.X("density:Q", title="density (share of validation rows on which it fires)")
        .scale(type="log")
        .axis(format="~e", values=[10.0**power for power in range(-6, 1)]),
    )
    # A tick a feature: named each for a screen reader, they would be half of the page.
    marks = base.mark_tick(opacity=0.25, thickness=1, aria=False).encode(
        alt.Color("class:N", legend=None).scale(domain=list(colours), range=list(colours.values())),
        tooltip=["class", alt.Tooltip("density", format=".2e")],
    )
    middle = base.mark_point(shape="diamond", size=90, color="black", filled=True).encode(
        x=alt.X("median(density):Q"), tooltip=[alt.Tooltip("median(density)", format=".2e")]
    )
    return (
        (marks + middle)
        .properties(width=size["width"], height=40 * max(len(order), 1))
        .facet(
            column=alt.Column("dictionary:N", title=None),
            title=heading(
                title,
                size["width"] + LEGEND,
                "a tick is a feature, a diamond the median of its class",
            ),
        )
    )


def nu_chart(features: pl.DataFrame, sides: Sequence[str], size: Size) -> alt.Chart:
    """Latent scaling: nu of the error against nu of the reconstruction, a point a feature.

    features: dictionary, class, relative_norm, nu_error, nu_reconstruction. sides: names of its two
    sources. One panel for each owner, the source where a feature's decoder norm is larger: nu is what the
    other source has of it.
    """
    names = class_names(sides)
    values = ("relative_norm", "nu_error", "nu_reconstruction")
    first, second = sides
    of_second = pl.when(pl.col("relative_norm") > 0.5)
    direction = of_second.then(pl.lit(f"features of {second}, in {first}")).otherwise(
        pl.lit(f"features of {first}, in {second}")
    )
    known = (
        features.select("dictionary", "class", *values)
        .filter(pl.col("class") != "dead")
        .drop_nulls()
        .drop_nans()
        .with_columns(direction.alias("panel"))
    )
    about = " and ".join(features["dictionary"].unique(maintain_order=True))
    title, covered = _nu_found(features, known)
    known = known.with_columns(pl.col("class").replace(names))
    scale = alt.Scale(domain=[0, NU_MOST], clamp=True)
    marks = (
        alt.Chart(known.drop("dictionary"))
        .mark_circle(size=22, opacity=0.45, aria=False)
        .encode(
            alt.X("nu_error:Q", title="nu of the error", scale=scale).axis(tickCount=6),
            alt.Y("nu_reconstruction:Q", title="nu of the reconstruction", scale=scale),
            class_colour(names, known),
            tooltip=["class", *[alt.Tooltip(name, format=".3f") for name in values]],
        )
        .properties(**size)
    )
    near = (
        f"near 0 on both axes: the other model lacks it; 1: it has as much as the owner (above {NU_MOST}: "
        "drawn at the edge)"
    )
    return marks.facet(
        alt.Facet("panel:N", title=None).header(labelAnchor="start"),
        columns=2,
        title=heading(title, 2 * size["width"], about, covered, near),
    )


def _nu_found(features: pl.DataFrame, known: pl.DataFrame) -> tuple[str, str]:
    """What nu of the error says of exclusive and common features, and how many of both have one."""
    kinds = {"exclusive": ["A-only", "B-only"], "common": ["common"]}
    every, some = (
        {kind: table.filter(pl.col("class").is_in(classes)) for kind, classes in kinds.items()}
        for table in (features, known)
    )
    exclusive, common = (table["nu_error"].median() for table in some.values())
    if exclusive is not None:
        beside = "" if common is None else f", {common:.2f} of a common one"
        title = f"The other model's error holds {exclusive:.2f} of an exclusive feature{beside} (median nu)"
    elif len(every["exclusive"]):
        title = f"None of the {len(every['exclusive']):,} exclusive features has a nu to compare"
    else:
        title = "No feature is exclusive to one model, so there is no nu to compare"
    counts = [f"{len(some[kind]):,} of {len(every[kind]):,} {kind}" for kind in kinds]
    covered = (
        f"{' and '.join(counts)} features have a nu: it takes {LEAST_FIRINGS} validation rows or more on "
        "which a feature fires"
    )
    return title, covered
