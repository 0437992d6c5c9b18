"""The feature browser of the report: every feature of a dictionary with its numbers and examples.

One piece of HTML with its style, its data and its script. Nothing is requested, and text comes into
the page by `textContent` alone: tokens hold anything, markup too.

Data is JSON in elements of their own, one a dictionary, so that only the one looked at is read. It
is compact: texts of tokens stand in one list, by falling frequency, and examples hold numbers of it;
activations are whole percents of the feature's largest, and only those above 0 are written.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup

from moediff.core.errors import UserError
from moediff.report.templates import render

DIGITS = 4  # significant ones of a number
EXAMPLES = (
    100_000  # on a page, over all dictionaries: of 24 with 2,048 features each 12 MB with all else
)
_NO_EXAMPLES = dict.fromkeys(
    ("feature", "rank", "domain", "row", "activation", "tokens", "activations", "peak"), pl.Null
)
# Columns that are shown on demand: what a class was made of, and other conventions.
_ASIDE = re.compile(r"block|fired|class_.*|decoder_.*|paper_.*")
# What would end a script element or a line of it, or is no text in UTF-8.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Browsed:
    """A dictionary to be looked at."""

    label: str  # what it is called everywhere on the page
    features: pl.DataFrame  # as `features.feature_table` gives it; columns may be joined to it
    # As `examples.feature_examples` gives them; None: no text is known.
    examples: pl.DataFrame | None = None
    experts: pl.DataFrame | None = None  # feature, source, layer, expert, information (nats)
    note: str = ""  # what a reader of its columns must know


def browser(dictionaries: Sequence[Browsed]) -> Markup:
    """HTML of one section that shows the features of dictionaries; to be put on a page once.

    A row a feature, to be searched, filtered by class and by top domain, and sorted by any column;
    under it, its examples, each token coloured by the feature's activation over its largest. A column
    without any value is left out. Raises UserError where a table lacks a column that is needed.
    """
    for one in dictionaries:
        _check(one)
    known = [one.examples for one in dictionaries if one.examples is not None]
    rank = _ranks(known)
    known = [table.filter(pl.col("rank") < rank) for table in known]
    count = Counter(text for table in known for text in table["tokens"].explode())
    vocabulary = sorted(count, key=lambda text: (-count[text], text))
    number = {text: place for place, text in enumerate(vocabulary)}
    parts: dict[str, Any] = {
        "labels": [one.label for one in dictionaries],
        "notes": [one.note for one in dictionaries],
        "vocabulary": vocabulary,
    }
    parts |= {f"dictionary-{n}": packed(one, number, rank) for n, one in enumerate(dictionaries)}
    data = {name: Markup(embedded(part)) for name, part in parts.items()}
    return render("browser.html.j2", data=data)


def _ranks(tables: Sequence[pl.DataFrame]) -> int:
    """How many examples of each feature are embedded: all, unless they are more than a page can hold."""
    count = Counter(rank for table in tables for rank in table["rank"])
    fits, total = 0, 0
    for rank in sorted(count):
        total += count[rank]
        if total > EXAMPLES and fits:
            break
        fits = rank + 1
    return fits


def with_recurrence(features: pl.DataFrame, recurs: pl.DataFrame) -> pl.DataFrame:
    """Features with the number of other SAEs in which each recurs, by model, as matching wrote them.

    A model without another seed is left out: there is nothing to recur in, which is no 0.
    """
    counted = recurs.select(pl.selectors.starts_with("recurs_of_")).columns
    compared = [
        "recurs_" + name.removeprefix("recurs_of_") for name in counted if recurs[name].max()
    ]
    return features.join(recurs.select("feature", *compared), on="feature")


def experts_told(affinity: pl.DataFrame, source: str) -> pl.DataFrame:
    """Experts of a source that firing tells of, as `Browsed` has them, from a table of affinity."""
    return affinity.select(
        "feature",
        pl.lit(source).alias("source"),
        "layer",
        "expert",
        pl.col("corrected").alias("information"),
    )


def _check(dictionary: Browsed) -> None:
    for table, needed in (
        (dictionary.features, ("feature", "class", "top_domain")),
        (dictionary.examples, tuple(_NO_EXAMPLES)),
        (dictionary.experts, ("feature", "source", "layer", "expert", "information")),
    ):  # fmt: skip
        missing = [] if table is None else [name for name in needed if name not in table.columns]
        if missing:
            raise UserError(
                f"{dictionary.label}: a table of the browser lacks {', '.join(missing)}"
            )


def embedded(value: Any) -> str:
    """JSON that is safe inside a script element, whatever text it holds."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def packed(dictionary: Browsed, number: dict[str, int], rank: int) -> dict[str, Any]:
    """What the script reads of a dictionary; `number` is each token text's place in the vocabulary, `rank`
    how many examples of a feature there are at most.

    `examples` has, for each row of the features, a list of [domain, row, activation, peak, tokens,
    levels]: `tokens` in the vocabulary, `levels` as place, percent, place, percent.
    """
    features = dictionary.features
    examples = pl.DataFrame(schema=_NO_EXAMPLES)
    if dictionary.examples is not None:
        examples = dictionary.examples.filter(pl.col("rank") < rank)
    domains = examples["domain"].unique().sort().to_list()
    place = {feature: row for row, feature in enumerate(features["feature"])}
    found: list[list[list[Any]]] = [[] for _ in place]
    most: dict[int, float] = {}
    for one in examples.sort("feature", "rank").iter_rows(named=True):
        most.setdefault(one["feature"], one["activation"])
        found[place[one["feature"]]].append(
            [
                domains.index(one["domain"]), one["row"], _rounded(one["activation"]), one["peak"],
                [number[text] for text in one["tokens"]],
                _levels(one["activations"], most[one["feature"]]),
            ]
        )  # fmt: skip
    experts = dictionary.experts
    return {
        "columns": _columns(features),
        "domains": domains,
        "examples": found,
        "text": dictionary.examples is not None,
        "experts": [] if experts is None else _columns(experts.drop_nulls("expert")),
    }


def _levels(activations: Sequence[float], most: float) -> list[int]:
    """Place and percent of `most` of each activation above 0; what rounds to nothing is 1."""
    return [
        part
        for place, value in enumerate(activations)
        if value > 0
        for part in (place, min(max(round(100 * value / most), 1), 100))
    ]


def _columns(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Columns with their values, or the numbers of their texts among `levels`; those that have any."""
    found = []
    for column in table:
        if column.null_count() == len(column):
            continue
        one: dict[str, Any] = {"name": column.name, "aside": bool(_ASIDE.fullmatch(column.name))}
        if column.dtype.is_numeric():
            one |= {
                "values": [_rounded(value) for value in column],
                "whole": column.dtype.is_integer(),
            }
        else:
            texts = column.cast(pl.String)
            one["levels"] = texts.drop_nulls().unique().sort().to_list()
            number = {text: place for place, text in enumerate(one["levels"])}
            one["values"] = [number.get(text) for text in texts]
        found.append(one)
    return found


def _rounded(value: float | None) -> float | None:
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
