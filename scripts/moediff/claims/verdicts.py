"""Verdicts: when a claim is shown, opposite, absent or undecided. Nothing else decides it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from moediff.core.errors import UserError
from moediff.core.resampling import finite
from moediff.core.terms import ABOVE, DIRECTIONS, NEAR

ALPHA = 0.05

SHOWN, OPPOSITE, ABSENT, UNDECIDED = "shown", "opposite", "absent", "undecided"
NO_VERDICT, NOT_MEASURED = "no verdict", "not measured"


def holm(p_values: ArrayLike) -> np.ndarray:
    """p values [test] after Holm (1979), in their order.

    Those at most alpha hold a false finding with a chance of alpha at most, whatever ties them.
    """
    p = finite("p values", p_values)
    if ((p <= 0) | (p > 1)).any():
        raise UserError("a p value is not between 0 and 1")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped.clip(max=1)
    return adjusted


class Verdict(NamedTuple):
    """One of the verdicts above, and why in words."""

    verdict: str
    reason: str


def verdict(
    estimate: float,
    interval: Sequence[float] | None,
    null: float,
    minimum_effect: float,
    direction: str,
    p_holm: float | None,
    p_against: float | None,
    withheld: Sequence[str] = (),
    alpha: float = ALPHA,
    known: bool = False,
) -> Verdict:
    """What may be said of a claim that the estimate is above, below or near `null`.

    Above or below: *shown* where p after Holm in that direction is at most alpha and the effect, the
    estimate less `null`, at least `minimum_effect`; *opposite* where the same holds in the other
    direction (`p_against`); *absent* where the interval lies within `minimum_effect` of null. A `known`
    null is a number and no labelling, so there is no p: the whole interval must lie beyond it instead.
    Near: *shown* where the interval lies within, *opposite* where all of it lies outside (a test of
    equivalence; it takes no p). All else is *undecided*. Anything in `withheld` leaves no verdict.
    """
    if direction not in DIRECTIONS:
        raise UserError(f"unknown direction '{direction}'; directions: {', '.join(DIRECTIONS)}")
    if withheld:
        return Verdict(NO_VERDICT, "; ".join(withheld))
    low, high = (part - null for part in interval) if interval else (-math.inf, math.inf)
    inside = -minimum_effect <= low and high <= minimum_effect
    band = f"{minimum_effect:g} of {null:.4g}"
    if direction == NEAR:
        if inside:
            return Verdict(SHOWN, f"the interval lies within {band}")
        if low > minimum_effect or high < -minimum_effect:
            return Verdict(OPPOSITE, f"the interval lies beyond {band}")
        return Verdict(
            UNDECIDED, f"the interval reaches beyond {band}" if interval else "no interval"
        )
    effect = estimate - null if direction == ABOVE else null - estimate
    said = f"effect {effect:.4g} against at least {minimum_effect:g}"
    ahead, behind = (low, -high) if direction == ABOVE else (-high, low)  # of null, when above 0
    for name, p, size, beyond in (
        (SHOWN, p_holm, effect, ahead), (OPPOSITE, p_against, -effect, behind),
    ):  # fmt: skip
        if size < minimum_effect:
            continue
        if p is not None and p <= alpha:
            return Verdict(name, f"{said}, p {p:.4g} after Holm")
        if known and beyond > 0:
            return Verdict(name, f"{said}, the interval lies beyond {null:.4g}")
    if inside:
        return Verdict(ABSENT, f"the interval lies within {band}")
    if known:
        return Verdict(
            UNDECIDED, said + (", the interval reaches further" if interval else ", no interval")
        )
    p = p_holm if effect >= 0 else p_against
    return Verdict(UNDECIDED, said + (", no p" if p is None else f", p {p:.4g} after Holm"))
