"""The history of a model's training: one long table of named values, and what is read from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from moediff.core import artifact
from moediff.core.terms import ALL

# One row a value. A loss is of a split and a domain; `tokens` seen so far and `learning_rate` are of
# the step, and stand once, under the train split and all domains. Router losses bear the names of
# `router_losses.ROUTER_LOSSES`, are means over batches, and stand under all domains.
COLUMNS = {
    "step": pl.Int64,
    "split": pl.String,
    "domain": pl.String,
    "name": pl.String,
    "value": pl.Float64,
}
TRAIN, VALIDATION = "train", "validation"
CROSS_ENTROPY = "cross_entropy"  # nats a token
TOKENS, LEARNING_RATE = "tokens", "learning_rate"


def schedule_rows(step: int, tokens: int, learning_rate: float) -> list[dict[str, Any]]:
    """Where a step stands: tokens seen when it is done, and its learning rate."""
    values = {TOKENS: float(tokens), LEARNING_RATE: learning_rate}
    return [
        {"step": step, "split": TRAIN, "domain": ALL, "name": name, "value": value}
        for name, value in values.items()
    ]


def read(path: Path | str) -> pl.DataFrame:
    """The history in a file, whichever layout it was written in. DamagedError when it is not whole."""
    return as_long(artifact.read_parquet(path))


def as_long(table: pl.DataFrame) -> pl.DataFrame:
    """A history as rows of `COLUMNS`, from these or from the wide table of models trained earlier.

    The wide table had a column for each of two losses, the balance loss repeated over domains and 0
    for a dense model, which has none.
    """
    if table.columns == list(COLUMNS):
        return table
    every = table.filter(domain=ALL)
    steps = every.unique("step", maintain_order=True).with_columns(split=pl.lit(TRAIN))
    parts = [
        _named(steps, TOKENS, TOKENS),
        _named(steps, LEARNING_RATE, LEARNING_RATE),
        _named(table, CROSS_ENTROPY, CROSS_ENTROPY),
        _named(every.filter(pl.col("balance_loss") > 0), "balance_loss", "balance"),
    ]
    return pl.concat(parts).sort("step", maintain_order=True)


def _named(table: pl.DataFrame, column: str, name: str) -> pl.DataFrame:
    """The values of one column of the wide table, under a name."""
    value = pl.col(column).cast(pl.Float64)
    return table.select("step", "split", "domain", name=pl.lit(name), value=value)


def final_losses(history: pl.DataFrame) -> dict[str, float]:
    """Validation cross-entropy at the last point of a history: nats a token by domain, and `all`."""
    last = history.filter(
        pl.col("step") == pl.col("step").max(), split=VALIDATION, name=CROSS_ENTROPY
    )
    return dict(last.select("domain", "value").iter_rows())


def learning_curve(history: pl.DataFrame) -> pl.DataFrame:
    """Validation cross-entropy over all domains by tokens seen: columns tokens, cross_entropy."""
    tokens = history.filter(name=TOKENS).select("step", tokens=pl.col("value").cast(pl.Int64))
    losses = history.filter(split=VALIDATION, domain=ALL, name=CROSS_ENTROPY)
    losses = losses.select("step", cross_entropy="value")
    return tokens.join(losses, on="step", maintain_order="left").drop("step")
