"""One panel by several dictionary seeds: its headline numbers on average, and how far seeds move them.

An interval over text and a null over labels are of one dictionary. Another one, of the same models and rows
but other first weights, gives other numbers: that variance stands apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from moediff.core.terms import EITHER

Record = Mapping[str, Any]
FIT = ("comparison", "member", "recipe")  # what the dictionaries of one panel share


def graded_numbers(record: Record) -> dict[str, float]:
    """Of one of kinds.json: R2, and the share spent differently above the mean of other splits.

    Nothing of one in which a model has no usage.
    """
    found = {row["statistic"]: row for row in record.get("judged", ())}
    if not found:
        return {}
    return {
        "r2": found["r2"]["observed"],
        "total_variation_excess": found["total_variation"]["excess_over_mean"],
    }


def exclusive_numbers(record: Record) -> dict[str, float]:
    """Of one of panel.json: features of one kind alone by the strict rule, and their share of variance."""
    found = {row["statistic"]: row for row in record["judged"] if row["kind"] == EITHER}
    return {
        "exclusive_features": found["features"]["observed"],
        "exclusive_share": found["share"]["observed"],
    }


def over_seeds(
    records: Sequence[Record], numbers: Callable[[Record], Mapping[str, float]]
) -> list[dict[str, Any]]:
    """One row a panel, recipe and number: its value by every dictionary seed, their mean and their deviation.

    `records` are those of all dictionaries, `numbers` names what is taken of each. `sd` is the standard
    deviation of seeds (n - 1). Panels that one seed alone has a number of have no row.
    """
    return [row for same in _alike(records) for row in _rows(same, numbers)]


def _alike(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Records of one panel and recipe, by seed."""
    by_fit: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        by_fit.setdefault(tuple(record[key] for key in FIT), []).append(record)
    for same in by_fit.values():
        yield sorted(same, key=lambda record: record["seed"])


def _rows(
    same: Sequence[Record], numbers: Callable[[Record], Mapping[str, float]]
) -> Iterator[dict[str, Any]]:
    known = [(record["seed"], found) for record in same if (found := numbers(record))]
    if len(known) < 2:
        return
    for name in known[0][1]:
        values = [float(found[name]) for _, found in known]
        yield {key: same[0][key] for key in FIT} | {
            "number": name,
            "seeds": [seed for seed, _ in known],
            "values": values,
            "mean": mean(values),
            "sd": stdev(values),
        }
