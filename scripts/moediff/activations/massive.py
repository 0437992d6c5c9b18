"""Rows that stand out: of massive norm, or with a large part of the variance of all rows.

Left in, a few of them are what scales, explained variance and the largest features are about. Needs no torch:
manifests and the page say what was found too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moediff.activations.moments import Moments
from moediff.config.activations import MASSIVE_NORM

SHARE = 0.1  # of the sum of squares about the mean that a row, or all massive ones, may hold without a word
UNEQUAL = 10.0  # times an equal part: of few rows each holds much
LEFT_OUT = (
    "massive_norm "  # what a manifest's reason for such rows begins with, before the hook point
)
BLOCK = 1 << 22  # values looked at at a time

Found = Mapping[str, Any]


def standing_out(
    rows: np.ndarray,
    sums: Moments,
    left_out: np.ndarray | None,
    columns: Mapping[str, np.ndarray],
    exponent: int,
) -> dict[str, Any] | None:
    """Of stored rows [row, d_model] those that stand out and are not `left_out` [row]; None where none does.

    `sums` are the moments of rows that are not left out, as stored, and `columns` what each row is. `massive`
    counts rows of more than MASSIVE_NORM times the median norm and sums their squares about the mean; `rows`
    are those that hold SHARE of the sum of squares by themselves, the largest first. In the model's own
    units, which are those stored times 2^-exponent.
    """
    norm, square = _lengths(rows, sums.mean)
    unit = 2.0**-exponent
    inside = np.ones(len(rows), bool) if left_out is None else ~left_out
    total, count = float(sums.spread.sum()), int(inside.sum())
    if not total > 0:
        return None
    median = float(np.median(norm[inside]))
    massive = inside & (norm > MASSIVE_NORM * median)
    heavy = inside & (square > total * max(SHARE, UNEQUAL / count))
    if not (massive | heavy).any():
        return None
    largest = sorted(np.flatnonzero(heavy), key=lambda row: -square[row])
    return {
        "massive": {"rows": int(massive.sum()), "square": unit**2 * float(square[massive].sum())},
        "rows": [
            {
                "token": int(columns["token"][row]),
                "document": f"{int(columns['document'][row]):015x}",
                "position": int(columns["position"][row]),
                "norm": unit * float(norm[row]),
                "times_median": float(norm[row] / median) if median else None,
                "square": unit**2 * float(square[row]),
            }
            for row in largest
        ],
    }


def _lengths(rows: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Norm and squared distance from a mean [d_model] of each row, float64 [row]."""
    norm, square = np.empty(len(rows)), np.empty(len(rows))
    step = max(BLOCK // rows.shape[1], 1)
    for start in range(0, len(rows), step):
        part = rows[start : start + step].astype(np.float32)
        norm[start : start + step] = np.sqrt(np.einsum("rd,rd->r", part, part, dtype=np.float64))
        part -= mean.astype(np.float32)
        square[start : start + step] = np.einsum("rd,rd->r", part, part, dtype=np.float64)
    return norm, square


def merged(parts: Sequence[Found], total: float) -> dict[str, Any] | None:
    """Of a split, from what stands out in its shards; `total` is its sum of squares about the mean.

    None where neither a row is massive nor one holds SHARE of all. Shares take each shard's own mean for the
    split's.
    """
    count = sum(part["massive"]["rows"] for part in parts)
    share = min(sum(part["massive"]["square"] for part in parts) / total, 1.0) if total else 0.0
    rows = [row | {"share": min(row["square"] / total, 1.0)} for p in parts for row in p["rows"]]
    rows = sorted((row for row in rows if row["share"] >= SHARE), key=lambda row: -row["share"])
    if not count and not rows:
        return None
    for row in rows:
        del row["square"]
    return {"massive_rows": count, "massive_share": share, "rows": rows}
