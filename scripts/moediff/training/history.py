"""The history of a model's training: its columns, and the losses it ends at."""

from __future__ import annotations

import polars as pl

COLUMNS = {
    "step": pl.Int64,
    "tokens": pl.Int64,
    "split": pl.String,
    "domain": pl.String,
    "cross_entropy": pl.Float64,
    "balance_loss": pl.Float64,
    "learning_rate": pl.Float64,
}


def final_losses(history: pl.DataFrame) -> dict[str, float]:
    """Validation cross-entropy at the last point of a history: nats a token by domain, and `all`."""
    last = (pl.col("split") == "validation") & (pl.col("step") == pl.col("step").max())
    return dict(history.filter(last).select("domain", "cross_entropy").iter_rows())
