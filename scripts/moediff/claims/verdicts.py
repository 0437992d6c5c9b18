"""Verdicts: what may be said of a claim, and why. Nothing else decides it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from moediff.core.errors import UserError
from moediff.core.resampling import finite
from moediff.core.terms import ABOVE, BELOW, DIRECTIONS, EITHER_WAY, NEAR

ALPHA = 0.05

SHOWN, SMALLER = "shown", "there, smaller than asked for"
OPPOSITE, OPPOSITE_SMALLER = "opposite", "opposite, smaller than asked for"
ABSENT, NOTHING_SEEN, UNDECIDED = "absent", "nothing seen", "undecided"
NO_VERDICT, NOT_MEASURED = "no verdict", "not measured"
VERDICTS = (SHOWN, SMALLER, OPPOSITE, OPPOSITE_SMALLER, ABSENT, NOTHING_SEEN, UNDECIDED)
SMALLEST = "smallest"  # p that so few labellings allow, beside those of the tails


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


class Step(NamedTuple):
    """A number of a claim, held against what is to be expected without an effect.

    `tails` are its p above and below under other labellings, and the smallest that these allow. Without
    them the reference is a known value, and the interval is the test.
    """

    estimate: float
    interval: Sequence[float] | None
    reference: float
    tails: Mapping[str, float] | None = None
    name: str = ""  # of a step of an order

    @property
    def effect(self) -> float:
        return self.estimate - self.reference

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval of the effect; without one it may be anything."""
        if not self.interval:
            return -math.inf, math.inf
        low, high = self.interval
        return low - self.reference, high - self.reference

    def within(self, least: float) -> bool:
        low, high = self.bounds
        return -least <= low and high <= least


class PValue(NamedTuple):
    """p of a claim under other labellings: alone, the smallest there can be, and both after Holm.

    After Holm None: not a primary claim.
    """

    p: float
    smallest: float
    holm: float | None = None
    smallest_holm: float | None = None


class Verdict(NamedTuple):
    """One of the verdicts above, and why in words."""

    verdict: str
    reason: str


def absence(found: Verdict, least: float, would_see: float | None, unknown: str) -> Verdict:
    """*Absent* of a panel, held to what it would have seen: *nothing seen* of effects that it would not.

    `would_see` is the least planted effect that its statistic saw, None where there is none, and `unknown`
    then says why. Any other verdict stays.
    """
    if found.verdict != ABSENT:
        return found
    if would_see is None:
        return Verdict(NOTHING_SEEN, f"{found.reason}, but {unknown}")
    told = f"it would have seen {would_see:g} and more"
    if would_see > least:
        return Verdict(NOTHING_SEEN, f"{found.reason}, but {told}, not {least:g}")
    return Verdict(ABSENT, f"{found.reason}; {told}")


def two_tailed(direction: str, opposite: bool) -> bool:
    """Whether a claim may be made in both directions, which then share one alpha."""
    return opposite or direction == EITHER_WAY


def p_value(steps: Sequence[Step], direction: str, opposite: bool = False) -> PValue | None:
    """The test of a claim whose every step is held against other labellings; None for another.

    All alpha lies on the claimed direction, or half of it on each where both can be claimed (p is twice
    that of the smaller tail). Of several steps p is the largest: an order is there when each of its steps
    is (an intersection-union test, Berger 1982, which needs no correction).
    """
    if direction == NEAR or any(step.tails is None for step in steps):
        return None
    above, below, smallest = (
        max(step.tails[key] for step in steps if step.tails) for key in (ABOVE, BELOW, SMALLEST)
    )
    if two_tailed(direction, opposite):
        return PValue(min(1.0, 2 * min(above, below)), min(1.0, 2 * smallest))
    return PValue(above if direction == ABOVE else below, smallest)


def after_holm(tests: Sequence[PValue | None]) -> list[PValue | None]:
    """The tests of all primary claims with p after Holm; None: it was not measured, and p is 1."""
    p = [1.0 if test is None else test.p for test in tests]
    found: list[PValue | None] = []
    for number, (test, adjusted) in enumerate(zip(tests, holm(p), strict=True)):
        if test is None:
            found.append(None)
            continue
        best = holm([*p[:number], test.smallest, *p[number + 1 :]])[number]
        found.append(test._replace(holm=float(adjusted), smallest_holm=float(best)))
    return found


def verdict(
    steps: Sequence[Step],
    least: float,
    direction: str,
    test: PValue | None = None,
    opposite: bool = False,
    alpha: float = ALPHA,
    withheld: Sequence[str] = (),
) -> Verdict:
    """What may be said of a claim that its steps lie above or below their references, either, or near.

    The effect is the estimate less its reference. It is there where p after Holm is at most alpha; of a
    known reference, where all of the interval lies beyond it. Then, and of at least `least`, it is *shown*
    in the claimed direction and *opposite* in the other (under other labellings only where the claim says
    `opposite`: alpha was all spent on the claimed direction else); of less, *there* or *opposite, smaller
    than asked for*. *Absent*: some step's interval lies within `least` of its reference, and its null is
    rejected in neither direction, though it could have been. Near takes no test: *shown* where the
    interval lies within `least`, *opposite* where all of it lies outside. All else is *undecided*.
    Anything in `withheld` leaves no verdict.
    """
    if direction not in DIRECTIONS:
        raise UserError(f"unknown direction '{direction}'; directions: {', '.join(DIRECTIONS)}")
    if withheld:
        return Verdict(NO_VERDICT, "; ".join(withheld))
    if direction == NEAR:
        (step,) = steps
        return _nearness(step, least)
    for sign, whole, part in _sides(direction, opposite or test is None):
        if _there(steps, sign, test, alpha):
            effect = min(sign * step.effect for step in steps)
            said = _said(steps, direction, least) + _tested(steps, test)
            if effect >= least:
                return Verdict(whole, said)
            further = not all(step.within(least) for step in steps if step.interval)
            return Verdict(part, said + ("; the interval reaches further" if further else ""))
    nothing = next((step for step in steps if _nothing(step, least, alpha)), None)
    if nothing is not None:
        of = f"of {nothing.name}: " if nothing.name else ""
        why = f"the interval lies within {_band(nothing, least)}, its null is not rejected"
        return Verdict(ABSENT, of + why)
    return Verdict(UNDECIDED, "; ".join(_undecided(steps, least, direction, test, opposite, alpha)))


def weakest(steps: Sequence[Step], direction: str) -> Step:
    """The step that goes least in the claimed direction."""
    sign = -1 if direction == BELOW else 1
    return min(steps, key=lambda step: sign * step.effect)


def _sides(direction: str, both: bool) -> Iterator[tuple[int, str, str]]:
    """Directions that a verdict can have, +1 above: with the words for effects large enough and not."""
    if direction == EITHER_WAY:
        yield from ((sign, SHOWN, SMALLER) for sign in (1, -1))
        return
    sign = 1 if direction == ABOVE else -1
    yield sign, SHOWN, SMALLER
    if both:
        yield -sign, OPPOSITE, OPPOSITE_SMALLER


def _there(steps: Sequence[Step], sign: int, test: PValue | None, alpha: float) -> bool:
    """Whether the effect of every step has this sign for certain."""
    if test is None:
        return all((step.bounds[0] if sign > 0 else -step.bounds[1]) > 0 for step in steps)
    same = all(sign * step.effect > 0 for step in steps)
    return test.holm is not None and test.holm <= alpha and same


def _nothing(step: Step, least: float, alpha: float) -> bool:
    """Whether a step has no effect of `least`, and no sign of any, where one could have been seen."""
    if step.tails is None:
        low, high = step.bounds
        return step.within(least) and low <= 0 <= high
    # Each tail at alpha, before Holm: absence needs a null that nothing speaks against.
    stands = min(step.tails[ABOVE], step.tails[BELOW]) > alpha
    return step.within(least) and stands and step.tails[SMALLEST] <= alpha


def _nearness(step: Step, least: float) -> Verdict:
    low, high = step.bounds
    band = _band(step, least)
    if step.within(least):
        return Verdict(SHOWN, f"the interval lies within {band}")
    if low > least or high < -least:
        return Verdict(OPPOSITE, f"the interval lies beyond {band}")
    reaches = f"the interval reaches beyond {band}" if step.interval else "no interval"
    return Verdict(UNDECIDED, reaches)


def _band(step: Step, least: float) -> str:
    return f"{least:g} of {step.reference:.4g}"


def _said(steps: Sequence[Step], direction: str, least: float) -> str:
    sign = -1 if direction == BELOW else 1
    effects = ", ".join(f"{sign * step.effect:.4g}" for step in steps)
    return f"effect {effects} against at least {least:g}"


def _tested(steps: Sequence[Step], test: PValue | None) -> str:
    """Why an effect is there, or how likely it is without one."""
    if test is None:
        return f", the interval lies beyond {', '.join(f'{step.reference:.4g}' for step in steps)}"
    if test.holm is None:
        return f", p {test.p:.4g} outside Holm: not a primary claim"
    return f", p {test.holm:.4g} after Holm"


def _undecided(
    steps: Sequence[Step],
    least: float,
    direction: str,
    test: PValue | None,
    opposite: bool,
    alpha: float,
) -> Iterator[str]:
    """Why a claim is undecided, part by part."""
    said = _said(steps, direction, least)
    if test is None:
        known = all(step.interval for step in steps)
        yield said + (", the interval reaches further" if known else ", no interval")
        return
    yield said + _tested(steps, test)
    if not all(step.interval for step in steps):
        yield "no interval"
    best = test.smallest if test.smallest_holm is None else test.smallest_holm
    if best > alpha:
        yield f"could not be decided by this design: no p below {best:.4g} with so few labellings"
    if not two_tailed(direction, opposite):
        tail = BELOW if direction == ABOVE else ABOVE
        against = max(step.tails[tail] for step in steps if step.tails)
        if against <= alpha:
            yield f"p {against:.4g} in the other direction, which is not claimed"
