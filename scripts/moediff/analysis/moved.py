"""How far the rows of one model lie from those of another on the same tokens.

    distance of a row = 2 |a - b| / (|a| + |b|)

between 0 (equal) and 2 (opposite); rows without a relation to each other, of one norm, are 1.41 apart (our
definition). It means something only where the two models share a basis, as a checkpoint and one tuned from it
do: models trained apart lie far from each other whatever they represent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from moediff.activations.rows import AlignedRows
from moediff.core.quantiles import quantiles
from moediff.core.scratch import Rows
from moediff.core.terms import ALL

COLUMNS = {
    "domain": pl.String, "rows": pl.Int64, "median": pl.Float64, "q05": pl.Float64, "q95": pl.Float64,
    "cosine": pl.Float64,
}  # fmt: skip


def distances(data: AlignedRows, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Distance and cosine [row] of the rows of two sources of equal width, in float64, batch by batch; NaN of
    zero rows."""
    for first, second in data.in_order(batch):
        a, b = first.double(), second.double()
        sizes = a.norm(dim=1), b.norm(dim=1)
        distance = 2 * (a - b).norm(dim=1) / (sizes[0] + sizes[1])
        cosine = (a * b).sum(1) / (sizes[0] * sizes[1])
        yield distance.numpy(), cosine.numpy()


def moved(data: AlignedRows, batch: int, scratch: Path | str | None = None) -> pl.DataFrame:
    """Median and quantiles of the distances, and the median cosine, over all rows and by domain, those that
    moved most first. COLUMNS; no row where the two widths differ. Files under `scratch` hold 16 bytes a
    row."""
    if len(set(data.widths)) > 1:
        return pl.DataFrame(schema=COLUMNS)
    parts = [_Moved(scratch) for _ in data.domains]
    domains = data.column_in_order("domain", batch)
    for (distance, cosine), domain in zip(distances(data, batch), domains, strict=True):
        for number in domain.unique():
            rows = (domain == number).numpy()
            parts[number].distance.append(distance[rows])
            parts[number].cosine.append(cosine[rows])
    told = [_told(ALL, parts)]
    named = zip(data.domains, parts, strict=True)
    each = [_told(name, [part]) for name, part in named if len(part.distance)]
    by_domain = pl.DataFrame(each, schema=COLUMNS).sort(-pl.col("median"), "domain")
    return pl.concat([pl.DataFrame(told, schema=COLUMNS), by_domain])


class _Moved:
    """Distances and cosines of the rows of a domain, on disk."""

    def __init__(self, scratch: Path | str | None) -> None:
        self.distance, self.cosine = (Rows(np.float64, (), scratch) for _ in range(2))


def _told(name: str, parts: Sequence[_Moved]) -> dict[str, Any]:
    """The row of the table of one domain or several."""
    low, middle, high = quantiles([part.distance for part in parts], [0.05, 0.5, 0.95])
    (cosine,) = quantiles([part.cosine for part in parts], [0.5])
    rows = sum(len(part.distance) for part in parts)
    return {
        "domain": name,
        "rows": rows,
        "median": middle,
        "q05": low,
        "q95": high,
        "cosine": cosine,
    }
