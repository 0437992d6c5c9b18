"""Classes of features of two sources, and the rules that draw them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from moediff.dictionaries.blocks import TIED

CLASSES = ("tied", "dead", "A-only", "common", "B-only")
LIVE = "live"  # the class of what fires in a dictionary that does not have two sources
STRICT = (0.1, 0.9)  # relative norms (2504.02922, and the count in the code of 2603.05805)
RATIO = (0.3, 0.7)  # of `norm_ratio` (Kissane and others' replication of crosscoders)
# Name of a convention -> column of its classes. A ratio of 0.7 is a relative norm of 0.786.
CONVENTIONS = {"bounds": "class", "strict": "class_strict", "ratio": "class_ratio"}


def relative_norm(norms: np.ndarray) -> np.ndarray:
    """Delta [F] of decoder norms [F, 2] of A and B: ((B - A) / max(A, B) + 1) / 2.

    0 is A alone, 1 is B alone, 0.5 is equal (2504.02922; papers print several other forms). NaN
    where both norms are 0.
    """
    a, b = norms[:, 0], norms[:, 1]
    largest = np.maximum(a, b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((b - a) / largest + 1) / 2


def norm_ratio(norms: np.ndarray) -> np.ndarray:
    """B / (A + B) [F] of decoder norms [F, 2] of A and B (Anthropic 2024); NaN where both are 0."""
    with np.errstate(invalid="ignore"):
        return norms[:, 1] / norms.sum(1)


def classify(
    blocks: Sequence[str],
    fired: np.ndarray,
    relative: np.ndarray | None,
    dead_below: int,
    bounds: tuple[float, float],
) -> list[str]:
    """Class of every feature: dead if it fired on fewer than `dead_below` rows, else by block and norm.

    With two sources: tied features are tied; the others A-only where `relative` [F] is below
    `bounds`, B-only above, else common. Otherwise what is alive is tied or live.
    """
    names = []
    for index, block in enumerate(blocks):
        if fired[index] < dead_below:
            names.append("dead")
        elif block == TIED:
            names.append("tied")
        elif relative is None:
            names.append(LIVE)
        elif relative[index] < bounds[0]:
            names.append("A-only")
        elif relative[index] > bounds[1]:
            names.append("B-only")
        else:
            names.append("common")
    return names


def class_numbers(names: Sequence[str]) -> np.ndarray:
    """Place in CLASSES of every feature's class [F]."""
    return np.array([CLASSES.index(name) for name in names])


def class_counts(table: pl.DataFrame, column: str = "class") -> dict[str, int]:
    """Features of each class in a column of classes; the counts sum to the number of features."""
    found = dict(table.group_by(column, maintain_order=True).len().iter_rows())
    paired = table["relative_norm"].null_count() < len(table)
    return {name: found.get(name, 0) for name in (CLASSES if paired else ("tied", "dead", LIVE))}


def conventions(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Features of each class under each of CONVENTIONS that a table has: one row a pair of them."""
    return [
        {"convention": name, "class": of, "count": count}
        for name, column in CONVENTIONS.items()
        if column in table.columns
        for of, count in class_counts(table, column).items()
    ]
