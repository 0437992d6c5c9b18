"""First lines of the page on rows of massive norm: left out, or left in and what hangs on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moediff.activations.cautions import cautions, massive_left_out
from moediff.analysis.measured import POOLED, THRESHOLD
from moediff.report.labels import label_of


def row_warnings(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on what hangs on few rows, by what every dictionary's metrics.json says of its rows."""
    found = [sentence for about in _abouts(metrics) for sentence in cautions(about)]
    return found + [sentence for record in metrics for sentence in _with_and_without(record)]


def rows_left_out(metrics: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on rows of massive norm that were left out; empty without any."""
    return massive_left_out(_abouts(metrics))


def _abouts(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What manifests say of the rows of each model, seed and split."""
    rows = (about for record in metrics for about in record["rows"])
    return list({(row["model"], row["seed"], row["split"]): row for row in rows}.values())


def _with_and_without(record: Mapping[str, Any]) -> list[str]:
    """FVE of a dictionary with and without the rows of massive norm; nothing where none were left in."""
    return [
        f"FVE of {label_of(row)} is {row['fve']:.3f} with the validation rows of massive norm "
        f"({row['massive_rows']:,} of {row['rows']:,}) and {_shown(row['fve_without_massive'])} without."
        for row in record["fve"]
        if (row["source"], row["mode"]) == (POOLED, THRESHOLD) and "massive_rows" in row
    ]


def _shown(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"
