"""One verdict from dictionaries over pairs of sources: every source is in as many, so none is seen less.

Features of several dictionaries are one where they fire alike on the same rows, as separate SAEs are matched
(`analysis.matching`). Of each such group every pair of sources says whose it is. Our rule, one for all
methods of pairs: a group is a kind's own where more than half of the pairs of two kinds call it the alone of
that kind's source, and a larger share of them than of the pairs within that kind call it the alone of one of
theirs. A pair that does not have the group calls it nobody's.

    F  features of a dictionary      G  groups      P  pairs      S  sources
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moediff.synthetic.planted import COMMON, FIRST, KINDS, SECOND, first_half

# Least correlation of a feature with itself in another dictionary: below `analysis.matching.MATCH`, since two
# sources that each miss half of its firings have it at 0.5.
SAME = 0.3
ABSENT = ""  # what a pair without the group says
NONE = -1  # group of a feature that never varies


def standard(values: np.ndarray) -> np.ndarray:
    """Values [row, F] so that products of columns are Pearson correlations; 0 where one never varies."""
    values = values - values.mean(0)
    norm = np.linalg.norm(values, axis=0)
    return np.divide(values, norm, out=np.zeros_like(values), where=norm > 0)


def grouped(values: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Groups of features that fire alike, from the `standard` values [row, F] of several dictionaries.

    Dictionary after dictionary, a feature joins the group whose first member it correlates with best, if
    no other feature there does so better and the correlation is at least SAME; else it begins a group.
    Returns the group of every feature, and the values [row, G] of the groups' first members.
    """
    firsts = np.zeros((len(values[0]), 0), values[0].dtype)
    found = []
    for own in values:
        group = np.full(own.shape[1], NONE)
        if firsts.shape[1]:
            alike = own.T @ firsts  # [F, G]
            best = alike.argmax(1)
            mine = alike.argmax(0)[best] == np.arange(len(alike))
            joins = mine & (alike.max(1) >= SAME)
            group[joins] = best[joins]
        begins = np.flatnonzero((group == NONE) & own.any(0))
        group[begins] = firsts.shape[1] + np.arange(len(begins))
        firsts = np.concatenate([firsts, own[:, begins]], axis=1)
        found.append(group)
    return found, firsts


def vote(says: np.ndarray, pairs: Sequence[tuple[int, int]], sources: int) -> np.ndarray:
    """The kind [G] whose own each group is: FIRST, SECOND or COMMON.

    `says` [P, G]: whose a group is in each of the `pairs` (earlier source first): FIRST or SECOND, of its
    two sources the first or second alone; COMMON or ABSENT.
    """
    ends = (~first_half(sources)).astype(int)[np.array(pairs)]  # [P, 2]: the kinds of its sources
    across = ends[:, 0] != ends[:, 1]
    alone = (says == FIRST) | (says == SECOND)
    sides = []
    for number, name in enumerate(KINDS):
        within = ~across & (ends[:, 0] == number)
        share = (says[across] == name).mean(0)  # [G]
        sides.append((share > 1 / 2) & (share > alone[within].sum(0) / max(1, within.sum())))
    return np.select(sides, KINDS, COMMON)
