"""Groups of documents resampled, domain by domain: intervals of ratios of sums over text.

Tokens of one document stand or fall together, and so do documents of one group: files of one
repository, chapters of one book. So the unit is the group. Domains were chosen and not drawn: each keeps
its number of groups in every sample, and what domains differ by widens no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from moediff.core.errors import UserError
from moediff.core.resampling import LEVEL, finite, t_quantile
from moediff.core.terms import ALL

LEAST_GROUPS = 10  # fewer cannot stand for the text they come from


class Units(NamedTuple):
    """Of rows, or of anything else that is of one group: the group, and the domain it is drawn in."""

    group: ArrayLike  # ids [row]
    domain: ArrayLike  # names or numbers [row]

    def numbered(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of each row's group [row], of 0 to n - 1, and the domain of each group [n], as a number.

        A group of two domains is two. Groups of a domain follow each other, by their ids.
        """
        _, group = np.unique(np.asarray(self.group), return_inverse=True)
        _, domain = np.unique(np.asarray(self.domain), return_inverse=True)
        if len(group) != len(domain):
            raise UserError(f"{len(group)} groups of rows and {len(domain)} domains")
        count = int(group.max(initial=0)) + 1
        pairs, place = np.unique(domain * count + group, return_inverse=True)
        return place, pairs // count

    def size(self) -> int:
        """So many groups."""
        return len(self.numbered()[1])

    def counts(self, domains: Sequence[str] | None = None) -> dict[str, int]:
        """So many groups, of ALL domains and of each by its name: of `domains` where rows have its number."""
        found = np.unique(np.asarray(self.domain)).tolist()
        names = found if domains is None else [domains[number] for number in found]
        each = np.bincount(self.numbered()[1]).tolist()
        return {ALL: self.size()} | dict(zip(names, each, strict=True))


def group_bootstrap(
    numerators: ArrayLike,
    denominators: ArrayLike,
    units: Units,
    samples: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Estimate and interval of sum(numerators) / sum(denominators), groups drawn within their domains.

    Both are [row], as `units` are. Every domain gives as many groups as it has, drawn with replacement; the
    only group of a domain would always be drawn, so such domains are drawn from as one, or with the
    domain of fewest groups. Percentiles, widened for few groups as a t interval is (the expanded
    percentile interval, Hesterberg 2015): by what drawing n of n takes from the variance of each domain,
    and by the degrees of freedom of the sum of these variances (Satterthwaite 1946).
    """
    tops, bottoms = finite("numerators", numerators), finite("denominators", denominators)
    place, domain = units.numbered()
    if not len(tops) == len(bottoms) == len(place):
        raise UserError(
            f"{len(tops)} numerators, {len(bottoms)} denominators and {len(place)} rows of groups"
        )
    count = len(domain)
    if count < LEAST_GROUPS:
        raise UserError(f"{count} groups are too few to resample; {LEAST_GROUPS} are needed")
    if (bottoms < 0).any():
        raise UserError("a denominator is below 0: the ratio of sums would have no meaning")
    top = np.bincount(place, tops, count)  # [group]
    bottom = np.bincount(place, bottoms, count)
    strata = _strata(domain)
    random = np.random.default_rng(seed)
    ratios = np.empty(samples)
    for number in range(samples):  # one at a time: memory for one draw, however many groups
        drawn = np.concatenate([own[random.integers(len(own), size=len(own))] for own in strata])
        below = bottom[drawn].sum()
        if below == 0:
            raise UserError("too few groups have a denominator above 0 to resample them")
        ratios[number] = top[drawn].sum() / below
    estimate = float(top.sum() / bottom.sum())
    tail = _tail(top - estimate * bottom, strata, level)
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return {"estimate": estimate, "interval": [float(low), float(high)], "text_groups": count}


def _strata(domain: np.ndarray) -> list[np.ndarray]:
    """Numbers of the groups that are drawn from each other, two or more, of the domain of each [group]."""
    found = [np.flatnonzero(domain == name) for name in np.unique(domain)]
    strata = sorted((own for own in found if len(own) > 1), key=len)
    alone = [own for own in found if len(own) == 1]
    if len(alone) == 1:
        alone.append(strata.pop(0))
    return [np.sort(np.concatenate(alone)), *strata] if alone else strata


def _tail(left: np.ndarray, strata: list[np.ndarray], level: float) -> float:
    """The probability on each side of the interval; `left` [group] is what the estimate leaves of sums."""
    variances = np.array([len(own) * left[own].var(ddof=1) for own in strata])
    freedoms = np.array([len(own) - 1 for own in strata])
    if not variances.any():
        variances = freedoms.astype(float)
    total = variances.sum()
    drawn = (variances * freedoms / (freedoms + 1)).sum()  # of n drawn of n, with replacement
    freedom = total**2 / (variances**2 / freedoms).sum()
    return _normal_below(-math.sqrt(total / drawn) * t_quantile(level, max(freedom, 1.0)))


def group_interval(
    numerators: ArrayLike, denominators: ArrayLike, units: Units
) -> list[float] | None:
    """The interval of `group_bootstrap`; None where groups are too few to resample."""
    if units.size() < LEAST_GROUPS:
        return None
    interval: list[float] = group_bootstrap(numerators, denominators, units)["interval"]
    return interval


def _normal_below(z: float) -> float:
    """The probability that a standard normal variable is below z."""
    from scipy.special import ndtr  # as in `t_quantile`

    return float(ndtr(z))
