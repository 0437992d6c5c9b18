"""What differs most between two models: losses, predictions and rows by domain, and features by shift, with
examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from markupsafe import Markup

from moediff.core.terms import ALL

Row = dict[str, Any]
MOST = 12  # features in the list
BEFORE, AFTER = 40, 24  # characters of an example around the token at which it fires most
CLEAN = (pl.col("kind") == "clean") & (pl.col("routing") == "live")  # of splicing.parquet
_SEEN = str.maketrans({"\n": "\u21b5", "\r": "\u21b5", "\t": "\u21e5"})


def clean_losses(splicing: pl.DataFrame) -> pl.DataFrame:
    """Losses of the models as they are, by source and domain, from the rows of splicing.parquet."""
    return splicing.filter(CLEAN).select("source", "domain", "cross_entropy", "tokens")


def losses(splicing: pl.DataFrame, sources: Sequence[str], sides: Sequence[str]) -> list[Row]:
    """Cross-entropy of two models on the same text by domain, all of it first, then where they differ most.

    Nats a token. `sides` is what the two sources are called.
    """
    clean = clean_losses(splicing)
    first, second = (
        clean.filter(source=source).select("domain", "tokens", pl.col("cross_entropy").alias(side))
        for source, side in zip(sources, sides, strict=True)
    )
    both = first.join(second.drop("tokens"), on="domain").with_columns(
        difference=pl.col(sides[1]) - pl.col(sides[0])
    )
    order = both.sort(
        pl.col("domain") != ALL, -pl.col("difference").abs(), "domain", maintain_order=True
    )
    head = f"{sides[1]} less {sides[0]}"
    return order.select("domain", *sides, pl.col("difference").alias(head), "tokens").to_dicts()


def divergences(divergence: pl.DataFrame, sides: Sequence[str]) -> list[Row]:
    """How far the predictions of two models lie apart, all and by domain, from divergence.parquet."""
    first, second = sides
    return [
        {
            "domain": row["domain"],
            f"KL({first} || {second})": row["kl_first_second"],
            "95 % interval": None if row["kl_low"] is None else [row["kl_low"], row["kl_high"]],
            f"KL({second} || {first})": row["kl_second_first"],
            "same top token": row["top1_agreement"],
            "tokens": row["tokens"],
            "groups of documents": row["text_groups"],
        }
        for row in divergence.iter_rows(named=True)
    ]


def rows_moved(moved: pl.DataFrame) -> list[Row]:
    """How far the rows of two models lie apart, all and by domain, from moved.parquet."""
    return [
        {
            "domain": row["domain"],
            "median distance": row["median"],
            "of 90 % of the rows": [row["q05"], row["q95"]],
            "median cosine": row["cosine"],
            "rows": row["rows"],
        }
        for row in moved.iter_rows(named=True)
    ]


def shifts(features: pl.DataFrame, sources: Sequence[str]) -> pl.DataFrame:
    """`feature` and `shift` of each live feature of a dictionary over two sources, the largest first.

    A feature that fires on a share p of the rows with mean activation a adds p a^2 n^2 to a source in which
    its decoder norm is n (standardised units). Its shift is that of the second source less that of the
    first, over what all features add to both, halved: all shifts lie between -2 and 2, and are positive
    where the second has more (our definition).
    """
    first, second = (pl.col(f"decoder_norm_{source}") ** 2 for source in sources)
    fired = pl.col("density") * pl.col("mean_activation") ** 2
    live = features.filter(pl.col("class") != "dead").with_columns(
        added=fired * (first + second) / 2, shift=fired * (second - first)
    )
    whole = live["added"].sum()
    shifted = live.with_columns(pl.col("shift") / whole if whole else pl.lit(0.0).alias("shift"))
    return shifted.sort(-pl.col("shift").abs(), "feature").drop("added")


def features(
    table: pl.DataFrame,
    examples: pl.DataFrame | None,
    sources: Sequence[str],
    sides: Sequence[str],
    most: int = MOST,
) -> list[Row]:
    """The features that differ most, each with its strongest example where the text is known."""
    found = shifts(table, sources).head(most)
    texts = {} if examples is None else strongest(examples, found["feature"].to_list())
    return [
        {
            "feature": str(row["feature"]),
            "more in": sides[row["shift"] > 0],
            "shift": abs(row["shift"]),
            "relative norm": row["relative_norm"],
            "fires on": row["density"],
            "top domain": row["top_domain"],
            "strongest example": texts.get(row["feature"]),
        }
        for row in found.iter_rows(named=True)
    ]


def strongest(examples: pl.DataFrame, wanted: Sequence[int]) -> dict[int, Markup]:
    """The text around the token at which a feature fires most, that token marked."""
    first = examples.filter(pl.col("feature").is_in(wanted)).sort("feature", "rank")
    first = first.unique("feature", keep="first", maintain_order=True)
    return {
        row["feature"]: _marked(row["tokens"], row["peak"]) for row in first.iter_rows(named=True)
    }


def _marked(tokens: Sequence[str], peak: int) -> Markup:
    before = "".join(tokens[:peak]).translate(_SEEN)[-BEFORE:]
    after = "".join(tokens[peak + 1 :]).translate(_SEEN)[:AFTER]
    marked = Markup('<span class="example">{}<b>{}</b>{}</span>')
    return marked.format(before, tokens[peak].translate(_SEEN), after)
