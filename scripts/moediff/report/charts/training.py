"""The training chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from moediff.report.charts import Tables
from moediff.report.theme import Size, heading, spread_out
from moediff.training.history import as_long, learning_curve

NAMES = 80  # pixels that names of n-grams take beside the chart
LINE = 13  # pixels of a line of text


def training(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of every model and seed, over all domains."""
    curves = [
        learning_curve(as_long(table)).with_columns(model=pl.lit(model), seed=pl.lit(str(seed)))
        for table, (model, seed) in zip(tables["histories"], settings["histories"], strict=True)
    ]
    (ngrams,) = tables["ngrams"]
    levels = pl.DataFrame(ngrams["rows"]).filter(pl.col("domain") == "all")
    return training_chart(pl.concat(curves), levels, size)


def training_chart(history: pl.DataFrame, ngrams: pl.DataFrame, size: Size) -> alt.Chart:
    """Validation cross-entropy against tokens seen, one line a model, with the n-grams' levels.

    history: model, seed, tokens, cross_entropy. ngrams: model, cross_entropy.
    """
    last = history.filter(pl.col("tokens") == history["tokens"].max())
    best = last.sort("cross_entropy").row(0, named=True)
    trigram = ngrams.filter(pl.col("model") == "trigram")["cross_entropy"][0]
    gap = trigram - best["cross_entropy"]
    verdict = "below" if gap > 0 else "above"
    values = pl.concat([history["cross_entropy"], ngrams["cross_entropy"]])
    room = 0.04 * (values.max() - values.min()) or 0.1
    y = alt.Y("cross_entropy:Q", title="validation cross-entropy (nats a token)").scale(
        domain=[values.min() - room, values.max() + room], nice=False, zero=False
    )
    lines = (
        alt.Chart(history)
        .mark_line(point=True)
        .encode(
            alt.X("tokens:Q", title="training tokens").axis(format="~s", tickCount=6),
            y,
            alt.Color("model:N", title=None).legend(orient="top"),
            alt.Detail("seed:N"),
            tooltip=["model", "seed", "tokens", alt.Tooltip("cross_entropy", format=".3f")],
        )
    )
    rules = (
        alt.Chart(ngrams)
        .mark_rule(strokeDash=[4, 4], color="#666")
        .encode(y, tooltip=["model", alt.Tooltip("cross_entropy", format=".3f")])
    )
    # Beside the chart, where no curve runs, and apart from each other.
    named = ngrams.sort("cross_entropy")
    least = LINE * (values.max() - values.min() + 2 * room) / size["height"]
    places = spread_out(named["cross_entropy"].to_list(), least, values.max() + room)
    names = (
        alt.Chart(named.with_columns(pl.Series("place", places)))
        .mark_text(align="left", dx=6, color="#666")
        .encode(alt.Y("place:Q"), text="model:N", x=alt.value(size["width"]))
    )
    title = f"The best model ends {abs(gap):.2f} nats {verdict} a smoothed trigram"
    return (lines + rules + names).properties(title=heading(title, size["width"] + NAMES), **size)
