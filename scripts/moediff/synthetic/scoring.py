"""An attribution scored where the truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moediff.synthetic.planted import KINDS, Planted, first_half

NEAR = 0.7


@dataclass(frozen=True)
class Found:
    """The live features that a method found."""

    directions: np.ndarray  # [F, D], zeros in a source where a feature has no decoder
    kind: np.ndarray  # [F] of str: FIRST, SECOND or COMMON of `planted`


def nearness(found: Found, truth: Planted, side: np.ndarray) -> np.ndarray:
    """Absolute cosine [F, P] of found and planted directions, a mean over those of the sources `side` [S]
    that have the planted one; 0 where none has, and of a source where none is found."""
    parts = [part for part, in_it in zip(truth.parts(), side, strict=True) if in_it]
    ends = np.cumsum([part.shape[1] for part in truth.parts()])[:-1]
    own = [
        part for part, in_it in zip(np.split(found.directions, ends, 1), side, strict=True) if in_it
    ]
    cosines = [np.abs(_unit(mine) @ _unit(part).T) for mine, part in zip(own, parts, strict=True)]
    having = np.sum([part.any(1) for part in parts], 0)  # [P]
    total: np.ndarray = np.sum(cosines, 0) / having.clip(1)
    return total


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def score(found: Found, truth: Planted) -> dict[str, Any]:
    """Counts and rates of a method's attributions in a world.

    `reached`: planted features of one kind alone that any live feature comes near, whatever it was
    attributed to. `false_share`: attributed and not right, of all live features. None where a ratio has
    nothing below it; F1 is then 0 if anything is planted, else None.
    """
    half = first_half(len(truth.rows))
    counts = dict.fromkeys(("attributed", "right", "planted", "recovered", "reached"), 0)
    for kind, side in zip(KINDS, (half, ~half), strict=True):
        own = truth.owner == kind  # [P]
        mine = found.kind == kind  # [F]
        near = nearness(found, truth, side)
        counts["attributed"] += int(mine.sum())
        counts["planted"] += int(own.sum())
        best = near[mine].argmax(1)
        counts["right"] += int((own[best] & (near[mine].max(1, initial=0) > 0)).sum())
        counts["recovered"] += int((near[mine][:, own].max(0, initial=0) >= NEAR).sum())
        counts["reached"] += int((near[:, own].max(0, initial=0) >= NEAR).sum())
    return rates(counts | {"live": len(found.kind)})


def rates(counts: Mapping[str, int]) -> dict[str, Any]:
    """Counts as `score` has them, of one world or summed over several, and their ratios."""
    precision = _ratio(counts["right"], counts["attributed"])
    recall = _ratio(counts["recovered"], counts["planted"])
    f1 = None
    if recall is not None:
        both = (precision or 0) + recall
        f1 = 2 * (precision or 0) * recall / both if both else 0.0
    wrong = counts["attributed"] - counts["right"]
    false_share = _ratio(wrong, counts["live"])
    return dict(counts) | {
        "precision": precision, "recall": recall, "f1": f1, "false_share": false_share
    }  # fmt: skip


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
