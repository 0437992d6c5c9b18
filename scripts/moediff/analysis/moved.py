"""How far the rows of one model lie from those of another on the same tokens.

    distance of a row = 2 |a - b| / (|a| + |b|)

between 0 (equal) and 2 (opposite); rows without a relation to each other, of one norm, are 1.41 apart (our
definition). It means something only where the two models share a basis, as a checkpoint and one tuned from it
do: models trained apart lie far from each other whatever they represent.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from moediff.activations.rows import AlignedRows
from moediff.core.terms import ALL

COLUMNS = {
    "domain": pl.String, "rows": pl.Int64, "median": pl.Float64, "q05": pl.Float64, "q95": pl.Float64,
    "cosine": pl.Float64,
}  # fmt: skip


def distances(data: AlignedRows, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance and cosine [row] of the rows of two sources of equal width, in float64; NaN of zero rows."""
    found = []
    for first, second in data.in_order(batch):
        a, b = first.double(), second.double()
        sizes = a.norm(dim=1), b.norm(dim=1)
        distance = 2 * (a - b).norm(dim=1) / (sizes[0] + sizes[1])
        cosine = (a * b).sum(1) / (sizes[0] * sizes[1])
        found.append(np.stack([distance.numpy(), cosine.numpy()]))
    distance, cosine = np.concatenate(found, axis=1)
    return distance, cosine


def moved(data: AlignedRows, batch: int) -> pl.DataFrame:
    """Median and quantiles of the distances, and the median cosine, over all rows and by domain, those that
    moved most first. COLUMNS; no row where the two widths differ. Memory: 20 bytes a row."""
    if len(set(data.widths)) > 1:
        return pl.DataFrame(schema=COLUMNS)
    distance, cosine = distances(data, batch)
    names = pl.Series(data.domains, dtype=pl.String)
    rows = pl.DataFrame(
        {"domain": names.gather(data.column("domain")), "distance": distance, "cosine": cosine}
    )
    told = [
        pl.len().cast(pl.Int64).alias("rows"),
        pl.col("distance").median().alias("median"),
        pl.col("distance").quantile(0.05, "linear").alias("q05"),
        pl.col("distance").quantile(0.95, "linear").alias("q95"),
        pl.col("cosine").median(),
    ]
    whole = rows.select(pl.lit(ALL).alias("domain"), *told)
    each = rows.group_by("domain").agg(told).sort(-pl.col("median"), "domain")
    return pl.concat([whole, each.select(whole.columns)]).select(list(COLUMNS))
