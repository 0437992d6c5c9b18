"""Charts of features and their classes: tidy table -> Altair chart.

Every axis names its unit and every title says what is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from moediff.analysis import controls
from moediff.report.charts import Tables
from moediff.report.labels import dictionary_label
from moediff.report.theme import CLASS_COLOURS, Size, class_colour

BIN = 0.025  # of relative norm
NU_MOST = 1.5  # a nu above it is drawn there
NUMBERS = (
    "class",
    "relative_norm",
    "density",
    "nu_error",
    "nu_reconstruction",
)  # of features, drawn here


def relative_norm(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of the dictionary that is looked at, beside those over two seeds of one of its models."""
    features, null = (_called(tables[name], settings) for name in ("features", "null_features"))
    return relative_norm_chart(features, tuple(settings["bounds"]), size, null)


def density(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of the dictionary that is looked at."""
    return density_chart(_called(tables["features"], settings), size)


def scaling(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of the dictionary that is looked at."""
    return nu_chart(_called(tables["features"], settings), size)


def _called(tables: Sequence[pl.DataFrame], settings: Mapping[str, Any]) -> pl.DataFrame | None:
    """Features of all tables under the name of the dictionary that is looked at; None without a table."""
    name = pl.lit(dictionary_label(*settings["drawn"])).alias("dictionary")
    return pl.concat(table.select(*NUMBERS, name) for table in tables) if tables else None


def classes(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of every comparison, by the recipe of the dictionary that is looked at."""
    (found,) = tables["classes"]
    *_, recipe, _ = settings["drawn"]
    rates = {
        row["control"]: row["exclusive"] for row in found["error_rates"] if row["recipe"] == recipe
    }
    missed = rates.get(controls.PERMUTED)
    rows = pl.DataFrame(
        {
            "comparison": row["comparison"],
            "class": row["class"],
            "features": row["count"],
            "false_exclusive": rates.get(controls.OTHER_SEED),
            "missed_exclusive": None if missed is None else 1 - missed,
        }
        for row in found["rows"]
        if row["recipe"] == recipe
    ).with_columns(pl.col("false_exclusive", "missed_exclusive").cast(pl.Float64))
    keys = ["comparison", "class", "false_exclusive", "missed_exclusive"]
    counts = rows.group_by(keys, maintain_order=True).agg(pl.col("features").sum())
    return classes_chart(counts, size)


def relative_norm_chart(
    features: pl.DataFrame,
    bounds: tuple[float, float],
    size: Size,
    null: pl.DataFrame | None = None,
) -> alt.Chart:
    """Histogram of relative decoder norms of live, untied features, one panel a dictionary.

    features: dictionary, class, relative_norm. null: the same of dictionaries over two seeds of one
    kind, fitted by the same recipe; `dictionary` names the one whose null it is. Its histogram is drawn
    as a line, of as many features as the bars have.
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
    base = alt.Chart(pl.concat([bars, lines], how="diagonal"))
    x = alt.X(
        "low:Q", bin="binned", title="relative decoder norm (0: only A, the first model; 1: only B)"
    )
    y = alt.Y("features:Q", title="features")
    drawn = base.transform_filter("isValid(datum.class)").mark_bar().encode(
        x.scale(domain=[0, 1]),
        alt.X2("high:Q"),
        y.stack("zero"),
        alt.Color("class:N", title="class").scale(
            domain=["A-only", "common", "B-only"],
            range=[CLASS_COLOURS[name] for name in ("A-only", "common", "B-only")],
        ),
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
            title=alt.TitleParams(title, subtitle=subtitle),
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


def density_chart(features: pl.DataFrame, size: Size) -> alt.Chart:
    """How often features of each class fire: distribution of their density on a log axis.

    features: dictionary, class, density.
    """
    live = features.filter(pl.col("class") != "dead").select("dictionary", "class", "density")
    medians = live.group_by("class").agg(pl.col("density").median()).sort("density")
    order = medians["class"].to_list()
    title = "Features that fire most often: " + " > ".join(reversed(order))
    base = alt.Chart(live).encode(
        alt.Y("class:N", title=None, sort=list(CLASS_COLOURS)),
        alt.X("density:Q", title="density (share of validation rows on which it fires)")
        .scale(type="log")
        .axis(format="~e", values=[10.0**power for power in range(-6, 1)]),
    )
    marks = base.mark_tick(opacity=0.25, thickness=1).encode(
        alt.Color("class:N", legend=None).scale(
            domain=list(CLASS_COLOURS), range=list(CLASS_COLOURS.values())
        ),
        tooltip=["class", alt.Tooltip("density", format=".2e")],
    )
    middle = base.mark_point(shape="diamond", size=90, color="black", filled=True).encode(
        x=alt.X("median(density):Q"), tooltip=[alt.Tooltip("median(density)", format=".2e")]
    )
    return (
        (marks + middle)
        .properties(width=size["width"], height=150)
        .facet(
            column=alt.Column("dictionary:N", title=None),
            title=alt.TitleParams(
                title, subtitle="a tick is a feature, a diamond the median of its class"
            ),
        )
    )


def nu_chart(features: pl.DataFrame, size: Size) -> alt.Chart:
    """Latent scaling: nu of the error against nu of the reconstruction, a point a feature.

    features: dictionary, class, relative_norm, nu_error, nu_reconstruction. One panel for each owner, the
    source where a feature's decoder norm is larger: nu is what the other source has of it.
    """
    values = ("relative_norm", "nu_error", "nu_reconstruction")
    of_b = pl.when(pl.col("relative_norm") > 0.5)
    direction = of_b.then(pl.lit("B's features in A")).otherwise(pl.lit("A's features in B"))
    known = (
        features.select("dictionary", "class", *values)
        .filter(pl.col("class") != "dead")
        .drop_nulls()
        .drop_nans()
        .with_columns(pl.concat_str(direction, pl.lit(", "), "dictionary").alias("panel"))
    )
    exclusive, common = (
        known.filter(pl.col("class").is_in(names))["nu_error"].median()
        for names in (["A-only", "B-only"], ["common"])
    )
    title = "There are no exclusive or no common features with a nu to compare"
    if exclusive is not None and common is not None:
        title = (
            f"The other model's error holds {exclusive:.2f} of an exclusive feature, {common:.2f} of a "
            "common one (median nu)"
        )
    scale = alt.Scale(domain=[0, NU_MOST], clamp=True)
    marks = (
        alt.Chart(known.drop("dictionary"))
        .mark_circle(size=22, opacity=0.45)
        .encode(
            alt.X("nu_error:Q", title="nu of the error", scale=scale).axis(tickCount=6),
            alt.Y("nu_reconstruction:Q", title="nu of the reconstruction", scale=scale),
            class_colour(CLASS_COLOURS, known),
            tooltip=["class", *[alt.Tooltip(name, format=".3f") for name in values]],
        )
        .properties(**size)
    )
    return marks.facet(
        alt.Facet("panel:N", title=None).header(labelAnchor="start"),
        columns=2,
        title=alt.TitleParams(
            title,
            subtitle="near 0 on both axes: the other model lacks it; 1: it has as much as the owner "
            f"(above {NU_MOST}: drawn at the edge)",
        ),
    )


def classes_chart(counts: pl.DataFrame, size: Size) -> alt.Chart:
    """Shares of live free features that are A's, common and B's, a bar for each kind of comparison.

    counts: comparison, class, features, and the error rates of the rule beside each, or null:
    false_exclusive (share that it calls exclusive where nothing differs) and missed_exclusive (share that
    it calls common where nothing is).
    """
    order = ["A-only", "common", "B-only"]
    total = pl.col("features").sum().over("comparison")
    wanted = counts.filter(pl.col("class").is_in(order)).with_columns(
        share=pl.col("features") / total,
        place=pl.col("class").replace_strict({name: n for n, name in enumerate(order)}),
    )
    wanted = wanted.filter(total > 0)
    own = (
        wanted.group_by("comparison", maintain_order=True)
        .agg(
            pl.col("share").filter(pl.col("class") != "common").sum().alias("exclusive"),
            pl.col("false_exclusive", "missed_exclusive").first(),
        )
        .with_columns(
            said=pl.struct("false_exclusive", "missed_exclusive").map_elements(
                lambda row: (
                    f"false {_percent(row['false_exclusive'])}, "
                    f"missed {_percent(row['missed_exclusive'])}"
                ),
                return_dtype=pl.String,
            )
        )
    )
    excess = (pl.col("exclusive") - pl.col("false_exclusive")).fill_null(-1.0)
    most = own.sort(excess, "exclusive").row(-1, named=True)
    false = "the rule's error is not known"
    if most["false_exclusive"] is not None:
        false = f"where nothing differs {_percent(most['false_exclusive'])} are"
    title = (
        f"{_percent(most['exclusive'])} of the features of {most['comparison']} are one model's alone; "
        f"{false}"
    )
    bars = (
        alt.Chart(wanted.select("comparison", "class", "features", "share", "place"))
        .mark_bar()
        .encode(
            alt.Y("comparison:N", title=None, sort=None),
            alt.X("share:Q", title="share of live free features")
            .axis(format="%")
            .scale(domain=[0, 1]),
            alt.Color("class:N", title=None, sort=order)
            .scale(domain=order, range=[CLASS_COLOURS[name] for name in order])
            .legend(orient="top"),
            alt.Order("place:Q"),
            tooltip=["comparison", "class", "features", alt.Tooltip("share", format=".1%")],
        )
    )
    text = (
        alt.Chart(own.select("comparison", "said"))
        .mark_text(align="left", dx=6, fontSize=11, color="#222")
        .encode(alt.Y("comparison:N", sort=None), x=alt.value(size["width"]), text="said:N")
    )
    return (bars + text).properties(
        width=size["width"],
        height=34 * len(own),
        title=alt.TitleParams(
            title,
            subtitle="false: exclusive where nothing differs; missed: common where nothing is",
        ),
    )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"
