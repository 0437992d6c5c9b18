"""What a chart gives Vega-Lite, taken apart."""

from __future__ import annotations

import math
from collections.abc import Iterator

import altair as alt
import polars as pl

SIZE = {"width": 200, "height": 120}
SIDES = ("moe", "dense")
CALLED = {"moe.0": "moe", "dense.0": "dense"}


def drawn(chart: alt.TopLevelMixin) -> dict:
    """What Vega-Lite is given; valid, and with no number that JSON has no word for."""
    found = chart.to_dict()
    assert not [value for value in numbers(found) if not math.isfinite(value)]
    return found


def numbers(value: object) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, float):
        yield value


def title_of(chart: dict) -> str:
    text = chart["title"] if isinstance(chart["title"], str) else chart["title"]["text"]
    return text if isinstance(text, str) else " ".join(text)


def data_with(chart: dict, column: str) -> pl.DataFrame:
    """The one table of a chart that has a column."""
    (found,) = (rows for rows in chart["datasets"].values() if rows and column in rows[0])
    return pl.DataFrame(found)
