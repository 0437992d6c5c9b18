"""Which planted features fire on which rows.

Definitions follow SynthSAEBench (2602.14687): frequencies by a power of rank (Zipf), correlated firing, and
children that fire with their parent alone. What differs is ours: frequencies are scaled to a mean number
of features a row and cut off nowhere (`config.planted`); two features of a pair have the correlation of
firing that is asked for, where the paper draws all from a Gaussian copula; a child has half of its parent's
frequency, and siblings may fire together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moediff.config.planted import CHILD, children, frequencies


@dataclass(frozen=True)
class Law:
    """How features fire; by default so many a row exactly, all equally often and independent."""

    zipf: float = 0.0  # frequency falls with this power of rank
    correlation: float = (
        0.0  # of the firing of ranks 1 and 2, 3 and 4, and so on, of those without parent
    )
    children: float = (
        0.0  # share of features that have a parent: the last ranks, of the first in turn
    )


def fires(
    rows: int, features: int, active: int, law: Law, random: np.random.Generator
) -> np.ndarray:
    """Which ranks fire on which row: [row, feature] of bool.

    The correlation of a pair is the largest that its frequencies allow where more is asked for.
    """
    rates = np.array(frequencies(features, active, law.zipf, law.children))
    roots = features - children(features, law.children)
    drawn = random.random((rows, features))
    found = drawn < rates
    one = np.arange(0, roots - 1, 2)
    first, second = rates[one], rates[one + 1]
    spread = np.sqrt(first * (1 - first) * second * (1 - second))
    both = np.minimum(first * second + law.correlation * spread, np.minimum(first, second))
    without = (second - both) / np.maximum(1 - first, np.finfo(float).tiny)
    found[:, one + 1] = drawn[:, one + 1] < np.where(found[:, one], both / first, without)
    parents = np.arange(features - roots) % roots
    found[:, roots:] = (drawn[:, roots:] < CHILD) & found[:, parents]
    return found


def codes(
    rows: int, features: int, active: int, law: Law, random: np.random.Generator
) -> np.ndarray:
    """Values [row, feature], 0 where a feature does not fire; each that does has an exponential strength.

    By the plain law exactly `active` fire on each row; by others so many on average, and ranks are given to
    features at random.
    """
    found = np.zeros((rows, features), np.float32)
    if law == Law():
        place = min(active, features - 1)  # the last that there is, where all fire
        chosen = np.argpartition(random.random((rows, features)), place, axis=1)[:, :active]
        np.put_along_axis(found, chosen, random.exponential(size=(rows, active)) + 0.1, axis=1)
        return found
    order = random.permutation(features)
    fired = fires(rows, features, active, law, random)
    found[:, order] = np.where(fired, random.exponential(size=fired.shape) + 0.1, 0)
    return found
