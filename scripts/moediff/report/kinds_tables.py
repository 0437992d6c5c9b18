"""Tables of the page about kinds of models: graded, feature by feature, and what would have been seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moediff.report.labels import label_of, member_label

Record = Mapping[str, Any]
Row = dict[str, Any]

# By what kinds are graded: the usage of features, and measures of similarity.parquet.
BY = {
    "usage": "explained variance by feature",
    "cka": "rows, linear CKA",
    "procrustes": "rows, Procrustes",
    "neighbours": "rows, nearest neighbours",
    "ridge": "rows, ridge regression",
}
# By what a planted effect is seen, as detectable.json names it.
SEEN_BY = {
    "r2": "R2 of usage",
    "total_variation": "variance spent differently",
    "exclusive": "features of one kind alone (strict rule)",
    "catalogue": "its own feature in the catalogue",
}
# What seeds of a panel's dictionary move, as panel.json and kinds.json name it.
NUMBERS = {
    "exclusive_features": "features of one kind alone (strict rule)",
    "exclusive_share": "share of variance that goes with them",
    "r2": "R2 of usage",
    "total_variation_excess": "share of variance spent differently, above other splits",
}


def by_seeds(found: Sequence[Record]) -> list[Row]:
    """The headline numbers of every panel of several dictionaries: their mean, and how seeds move it."""
    return [
        {
            "panel": f"{row['comparison']}: {member_label(row['member'])}, {row['recipe']}",
            "number": NUMBERS[row["number"]],
            "dictionary seeds": len(row["seeds"]),
            "mean": row["mean"],
            "standard deviation": row["sd"],
        }
        for row in found
    ]


def graded(kinds: Sequence[Record]) -> list[Row]:
    """How well kinds divide the models of every panel: by its features, and by rows without it."""
    return [
        {
            "dictionary": label_of(panel),
            "measured by": BY[measure],
            "R2": row["observed"],
            "largest of others": row["largest_other"],
            "rank": f"{row['rank']} of {row['others'] + 1}",
            "p": row["p"],
        }
        for panel in kinds
        for measure, found in (
            ("usage", panel),
            *((one["measure"], one) for one in panel["without_dictionary"]),
        )
        for row in found.get("judged", [])
        if row["statistic"] == "r2"
    ]


def catalogue(kinds: Sequence[Record]) -> list[Row]:
    """Features that a kind uses more, of every panel, and what explained variance goes to them."""
    return [
        {
            "dictionary": label_of(panel),
            "used more by": row["kind"],
            "features": row["features"],
            "at most false": row["q"],
            "their share there": row["share"],
            "in the other kind": row["elsewhere"],
        }
        for panel in kinds
        for row in panel["catalogue"]
    ]


def detectable(kinds: Sequence[Record]) -> list[Row]:
    """The least share of variance that each statistic saw of what was planted into a panel's rows."""
    return [
        {
            "dictionary": label_of(panel),
            "seen by": SEEN_BY[row["statistic"]],
            "planted in the others": "nothing"
            if row["strength"] is None
            else f"1/{row['strength']:g} of it",
            "least seen": row["least"] or f"none up to {row['largest_tried']:g}",
            "tries": ", ".join(
                f"{one['share']:g}: {one['seen']} of {one['tries']}" for one in row["seen"]
            ),
        }
        for panel in kinds
        for row in panel["detectable"]
    ]


def by_dose(trends: Sequence[Record]) -> list[Row]:
    """How far models lie from those of the smallest dose, and p of the trend beside the first."""
    return [
        {
            "dictionary": label_of(found),
            "dose": row["dose"],
            "model": row["kind"],
            "distance": row["from_least"],
            "variance spent differently": row["spent_differently"],
            "distance within": row["within"],
            "share along the dose": found["judged"]["observed"] if number == 0 else None,
            "p": found["judged"]["p"] if number == 0 else None,
        }
        for found in trends
        for number, row in enumerate(found.get("rows", ()))
    ]
