"""Shares of features by class, beside the error rates of their rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from moediff.analysis import controls
from moediff.report.charts import Tables
from moediff.report.labels import percent, sides_of
from moediff.report.theme import CLASS_COLOURS, Size, heading, room

ORDER = ("A-only", "common", "B-only")
SAID = 200  # pixels for the error rates beside the bars


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
            "sides": list(sides_of(row["member"])),
            "class": row["class"],
            "features": row["count"],
            "false_exclusive": rates.get(controls.OTHER_SEED),
            "missed_exclusive": None if missed is None else 1 - missed,
        }
        for row in found["rows"]
        if row["recipe"] == recipe
    ).with_columns(pl.col("false_exclusive", "missed_exclusive").cast(pl.Float64))
    keys = ["comparison", "class", "false_exclusive", "missed_exclusive"]
    counts = rows.group_by(keys, maintain_order=True).agg(
        pl.col("features").sum(), pl.col("sides").first()
    )
    return classes_chart(counts, size)


def classes_chart(counts: pl.DataFrame, size: Size) -> alt.Chart:
    """Shares of live free features that are the first model's, common and the second's, a bar for each
    comparison.

    counts: comparison, sides (names of its first two sources), class, features, and the error rates of the
    rule beside each, or null: false_exclusive (share that it calls exclusive where nothing differs) and
    missed_exclusive (share that it calls common where nothing is).
    """
    total = pl.col("features").sum().over("comparison")
    wanted = counts.filter(pl.col("class").is_in(ORDER)).with_columns(
        share=pl.col("features") / total,
        place=pl.col("class").replace_strict({name: n for n, name in enumerate(ORDER)}),
    )
    wanted = wanted.filter(total > 0)
    called, bar = _called(wanted)
    wanted = wanted.with_columns(
        pl.col("class").replace(called), pl.Series("comparison", bar, pl.String)
    )
    own = (
        wanted.group_by("comparison", maintain_order=True)
        .agg(
            pl.col("share").filter(pl.col("place") != 1).sum().alias("exclusive"),
            pl.col("false_exclusive", "missed_exclusive").first(),
        )
        .with_columns(
            said=pl.struct("false_exclusive", "missed_exclusive").map_elements(
                _errors, return_dtype=pl.String
            )
        )
    )
    names = [called.get(name, name) for name in ORDER]
    bars = (
        alt.Chart(wanted.select("comparison", "class", "features", "share", "place"))
        .mark_bar()
        .encode(
            alt.Y("comparison:N", title=None, sort=None).axis(labelLimit=400),
            alt.X("share:Q", title="share of live free features")
            .axis(format="%", tickCount=5)
            .scale(domain=[0, 1]),
            alt.Color("class:N", title=None, sort=names)
            .scale(domain=names, range=[CLASS_COLOURS[name] for name in ORDER])
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
    known = (
        own["false_exclusive"].is_not_null().any() or own["missed_exclusive"].is_not_null().any()
    )
    told = "false: exclusive where nothing differs; missed: common where nothing is"
    return (bars + text).properties(
        width=size["width"],
        height=34 * len(own),
        padding=room(own["comparison"]),
        title=heading(_title(own), size["width"] + SAID, *([told] if known else [])),
    )


def _called(wanted: pl.DataFrame) -> tuple[dict[str, str], list[str]]:
    """What the two exclusive classes are called, and each row's bar: by names where all bars are of the same
    two models, else by their order, which each bar then names."""
    pairs = wanted["sides"].to_list()
    if len(set(map(tuple, pairs))) == 1:
        first, second = (f"only {name}" for name in pairs[0])
        return {"A-only": first, "B-only": second}, wanted["comparison"].to_list()
    bars = [
        f"{comparison}: {first}, {second}"
        for comparison, (first, second) in zip(wanted["comparison"], pairs, strict=True)
    ]
    return {"A-only": "only the first", "B-only": "only the second"}, bars


def _title(own: pl.DataFrame) -> str:
    """What exceeds its own error most."""
    excess = (pl.col("exclusive") - pl.col("false_exclusive")).fill_null(-1.0)
    most = own.sort(excess, "exclusive").row(-1, named=True)
    false = "the rule's error is not known"
    if most["false_exclusive"] is not None:
        false = f"where nothing differs {percent(most['false_exclusive'])} are"
    return (
        f"{percent(most['exclusive'])} of the features of {most['comparison']} are one model's alone; "
        f"{false}"
    )


def _errors(row: Mapping[str, float | None]) -> str:
    """The error rates that are known, beside a bar."""
    kinds = (("false", row["false_exclusive"]), ("missed", row["missed_exclusive"]))
    return ", ".join(f"{name} {percent(share)}" for name, share in kinds if share is not None)
