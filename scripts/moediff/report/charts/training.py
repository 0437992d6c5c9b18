"""The training chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from moediff.report.charts import Tables
from moediff.report.theme import Size
from moediff.training.history import as_long, learning_curve


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
    x = alt.X("tokens:Q", title="training tokens").axis(format="~s")
    lines = (
        alt.Chart(history)
        .mark_line(point=True)
        .encode(
            x,
            alt.Y("cross_entropy:Q", title="validation cross-entropy (nats a token)").scale(
                zero=False
            ),
            alt.Color("model:N", title="model"),
            alt.Detail("seed:N"),
            tooltip=["model", "seed", "tokens", alt.Tooltip("cross_entropy", format=".3f")],
        )
    )
    rules = (
        alt.Chart(ngrams)
        .mark_rule(strokeDash=[4, 4], color="#666")
        .encode(
            alt.Y("cross_entropy:Q"), tooltip=["model", alt.Tooltip("cross_entropy", format=".3f")]
        )
    )
    labels = rules.mark_text(align="left", dx=4, dy=-5, color="#666").encode(
        text="model:N", x=alt.value(0)
    )
    title = f"The best model ends {abs(gap):.2f} nats {verdict} a smoothed trigram"
    return (lines + rules + labels).properties(title=title, **size)
