"""First lines of the page on rows of massive norm: left out, or left in and what hangs on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moediff.activations.cautions import cautions, massive_left_out
from moediff.analysis.measured import POOLED, THRESHOLD
from moediff.report.labels import label_of


def row_cautions(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(kind, sentence) of what every dictionary's metrics.json says of the rows it is measured on."""
    abouts = {
        (about["model"], about["seed"], about["split"]): about
        for record in metrics
        for about in record["rows"]
    }
    found = [("warning", sentence) for about in abouts.values() for sentence in cautions(about)]
    found += [("warning", sentence) for record in metrics for sentence in _with_and_without(record)]
    left_out = massive_left_out(list(abouts.values()))
    return found + ([("plain", left_out)] if left_out else [])


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
