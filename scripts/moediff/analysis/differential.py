"""Features that one kind of model uses more than the other, feature by feature: the graded catalogue.

A feature's usage in a source is its part of the variance that all features explain there. Of the logarithm
of usage each feature has a moderated t, kind against kind: its variance over models of a kind is drawn
towards that of all features, since a few models tell little of one alone (Smyth 2004, sections 3 and 6, for
gene expression). Usages of a source add up to 1, so where some features have more all others have less: the
logarithms of a source are counted from what its middle feature is off from its own mean (Anders and Huber
2010). How many of those found are false is read off every other way to label the models, which
has as many by chance (Tusher et al. 2001): q of a feature is the least share of false ones among all that
are at least as far from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from moediff.core.resampling import labellings

# Added to every usage before its logarithm, as a part of an equal share 1 / F: what is smaller counts as
# nothing, and a feature that one model does not use at all is not infinitely far from the others.
OFFSET = 0.1
LEAST_VARIANCE = (
    1e-5  # of a feature, as a part of the median's: an equal usage has no logarithm of it
)
Q = 0.1  # share of false ones at which features are counted
COLUMNS = {
    "feature": pl.Int64,
    "log2_ratio": pl.Float64,
    "t": pl.Float64,
    "q": pl.Float64,
}

_NOTHING = 1e-18  # a variance that is rounding
NOTHING = pl.DataFrame(schema=COLUMNS)


def moderated_t(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """t [F] of values [F, S] in the sources of `first` [S] of bool against the others.

    The variance of a feature is (d0 s0^2 + d s^2) / (d0 + d), with d = S - 2 and d0, s0 fitted to the
    logarithms of all s^2 by their mean and variance. Features need to vary within kinds.
    """
    from scipy.special import digamma, polygamma  # half a second, of those alone who ask

    sides = values[:, first], values[:, ~first]
    degrees = values.shape[1] - 2
    squares = sum(((side - side.mean(1, keepdims=True)) ** 2).sum(1) for side in sides)
    variance = squares / degrees
    variance = np.maximum(variance, max(LEAST_VARIANCE * np.median(variance), _NOTHING))
    logs = np.log(variance) - digamma(degrees / 2) + np.log(degrees / 2)
    spread = float(logs.var(ddof=1)) - float(polygamma(1, degrees / 2))
    if spread > 0:
        prior = 2 * _inverse_trigamma(spread)
        middle = np.exp(logs.mean() + digamma(prior / 2) - np.log(prior / 2))
        variance = (prior * middle + degrees * variance) / (prior + degrees)
    else:  # variances differ by no more than chance: one for all
        variance = np.full(len(values), np.exp(logs.mean()))
    sizes = 1 / first.sum() + 1 / (~first).sum()
    difference: np.ndarray = sides[0].mean(1) - sides[1].mean(1)
    return difference / np.sqrt(variance * sizes)


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value, by Newton's steps (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    found = 0.5 + 1 / value
    for _ in range(50):
        now = float(polygamma(1, found))
        step = now * (1 - now / value) / float(polygamma(2, found))
        found += step
        if abs(step) < 1e-12 * found:
            break
    return found


def differential(usage: np.ndarray, first: int) -> pl.DataFrame:
    """COLUMNS of every feature that some source uses, from usage [F, S]; the first kind has `first` sources.

    `log2_ratio` and `t` are above 0 where the first kind uses it more, the middle feature counted as equal.
    A kind of one source has no t: the table is then empty. So is it without features.
    """
    count = usage.shape[1]
    used = np.flatnonzero((usage > 0).any(1))
    if min(first, count - first) < 2 or not len(used):
        return NOTHING
    values = np.log(usage[used] / _sizes(usage) + OFFSET / len(usage))
    every = labellings(count, first, unordered=2 * first == count)
    sides = np.zeros((len(every), count), bool)
    for number, chosen in enumerate(every):
        sides[number, list(chosen)] = True
    found = [moderated_t(values, side) for side in sides]
    true = sides[0]
    columns = {
        "feature": used,
        "log2_ratio": (values[:, true].mean(1) - values[:, ~true].mean(1)) / np.log(2),
        "t": found[0],
        "q": false_share(found[0], found[1:]),
    }
    return pl.DataFrame(columns, schema=COLUMNS)


def _sizes(usage: np.ndarray) -> np.ndarray:
    """What the middle feature's usage in each source is over its mean in all, of [F, S]: [S].

    Of the features that every source uses for more than OFFSET of an equal share; 1 without any.
    """
    clear = usage[(usage > OFFSET / len(usage)).all(1)]
    if not len(clear):
        return np.ones(usage.shape[1])
    logs = np.log(clear)
    sizes: np.ndarray = np.exp(np.median(logs - logs.mean(1, keepdims=True), axis=0))
    return sizes


def false_share(t: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """q [F] of t [F], from those under other labellings, [F] each."""
    size = np.sort(np.abs(t))[::-1]
    by_chance = np.sort(np.abs(np.concatenate(others)))
    # Of each threshold, those of t: how many reach it by chance in a labelling, over how many do here.
    false = (len(by_chance) - np.searchsorted(by_chance, size, "left")) / len(others)
    reached = np.searchsorted(-size, -size, "right")  # equals counted
    share = false / reached
    least = np.minimum.accumulate(share[::-1])[::-1].clip(
        max=1
    )  # of it and of all lower thresholds
    return least[np.searchsorted(-size, -np.abs(t), "left")]


def catalogue(
    table: pl.DataFrame, usage: np.ndarray, kinds: Mapping[str, Sequence[str]], q: float = Q
) -> list[dict[str, Any]]:
    """Of each kind: the features that it uses more at a false share of `q`, and their usage in both kinds.

    `usage` [F, S] in the order of the kinds' sources. `share` is the kind's mean usage of them together,
    `elsewhere` the other kind's.
    """
    first = len(next(iter(kinds.values())))
    of_kind = usage[:, :first].mean(1), usage[:, first:].mean(1)
    chosen = table.filter(pl.col("q") <= q)
    found = []
    for number, (kind, sign) in enumerate(zip(kinds, (1, -1), strict=True)):
        own = chosen.filter(pl.col("t") * sign > 0)["feature"].to_numpy()
        here, there = (float(of_kind[side][own].sum()) for side in (number, 1 - number))
        row = {"kind": kind, "features": len(own), "share": here, "elsewhere": there, "q": q}
        found.append(row)
    return found
