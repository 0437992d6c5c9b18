"""Squared distances between models, divided by labels: between two kinds, and about each one's centre.

Everything here is a function of d2 [S, S], any symmetric table of squared distances with a diagonal of 0,
and of labels [L, S] of bool, a row a labelling: which of the S models are called the first kind. A
centroid need not be known: the mean squared distance within a set says how far its points lie from it.
PERMANOVA is Anderson's (2001, Austral Ecology 26), PERMDISP hers of 2006 (Biometrics 62), the map of the
models classical scaling (Torgerson 1952; Gower 1966).
"""

from __future__ import annotations

import numpy as np

from moediff.core.resampling import labellings

_ROUNDING = 1e-20  # of a sum of squares: less about a mean is the rounding of equal numbers


def every_labelling(count: int, first: int) -> np.ndarray:
    """Labels [L, count] of every way to call `first` of the models the first kind, the true way first.

    True is that the first `first` models are so called. Equal halves count once, since no statistic of
    this module changes when the kinds change names.
    """
    ways = labellings(count, first, unordered=2 * first == count)
    labels = np.zeros((len(ways), count), bool)
    np.put_along_axis(labels, np.array(ways), True, axis=1)
    return labels


def r2(d2: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share [L] of the models' sum of squares about their centroid that lies between the two kinds.

    That sum is SS_T = sum over pairs of d2 / S, the one within kinds SS_W the same of each kind; R2 is
    1 - SS_W / SS_T. 0 where all models lie at one place.
    """
    total = d2.sum() / 2 / len(d2)
    if total == 0:
        return np.zeros(len(labels))
    within = sum(_within(d2, side) for side in (labels, ~labels))
    return 1 - within / total


def f_of(share: np.ndarray, count: int) -> np.ndarray:
    """F of the analysis of variance of `count` models in two kinds that puts `share` between the kinds.

    (SS_A / 1) / (SS_W / (count - 2)): of `r2` the pseudo-F. It rises with the share, so that both rank
    labellings alike; infinite where nothing lies within kinds.
    """
    share = np.asarray(share, np.float64)
    within = np.where(1 - share > 1e-12, 1 - share, 0)
    with np.errstate(divide="ignore"):
        return np.where(within > 0, share * (count - 2) / within, np.inf)


def between_over_within(d2: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean distance [L] between models of two kinds over that between two of one kind; infinite over 0,
    and 1 where all models lie at one place."""
    distance = np.sqrt(d2)
    same = labels[:, :, None] == labels[:, None, :]  # [L, S, S]
    others = ~np.eye(len(d2), dtype=bool)
    between = (distance * ~same).sum((1, 2)) / (~same).sum((1, 2))
    within = (distance * same).sum((1, 2)) / (same & others).sum((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(between == within, 1.0, between / within)


def centroid_distances(d2: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Distance [L, S] of each model from the centroid of the kind that it is called.

    Its square is the mean of d2 to the kind's models, less half the mean of d2 among them (each with
    itself counted). 0 where distances that are no Euclidean ones would make it negative.
    """
    found = np.zeros(labels.shape)
    for side in (labels, ~labels):
        size = side.sum(1, keepdims=True)
        squared = (side @ d2) / size - _within(d2, side)[:, None] / size  # [L, S]
        found = np.where(side, np.sqrt(squared.clip(0)), found)
    return found


def dispersion(d2: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share [L] of the variance of `centroid_distances` that lies between the kinds, as `f_of` takes it.

    p over labellings is exact where models are exchangeable. Where kinds lie apart it is too small, since
    other labels mix them (docs/decisions.md has by how much). With two models of a kind both are as far
    from their centroid, whichever they are, and every share is 1.
    """
    distance = centroid_distances(d2, labels)
    total = ((distance - distance.mean(1, keepdims=True)) ** 2).sum(1)
    within = np.zeros(len(labels))
    for side in (labels, ~labels):
        mean = (distance * side).sum(1, keepdims=True) / side.sum(1, keepdims=True)
        within += (((distance - mean) ** 2) * side).sum(1)
    differs = total > _ROUNDING * (distance**2).sum(1)
    return np.where(differs, 1 - within / np.where(differs, total, 1), 0.0)


def positions(d2: np.ndarray, axes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Places [S, axes] of models whose distances are those of d2 as nearly as so many axes allow, and of
    each axis the share of squared distance that it shows.

    The share is that of its eigenvalue in the sum of all, each without its sign (Mardia 1978); 0 where
    all models lie at one place. Of each axis the largest coordinate is positive.
    """
    count = len(d2)
    centre = np.eye(count) - 1 / count
    values, vectors = np.linalg.eigh(-centre @ d2 @ centre / 2)  # rising
    total = float(np.abs(values).sum())
    shown = np.zeros(axes)
    shown[:count] = values[::-1][:axes].clip(0)
    places = np.zeros((count, axes))
    places[:, :count] = vectors[:, ::-1][:, :axes] * np.sqrt(shown[:count])
    largest = np.take_along_axis(places, np.abs(places).argmax(0)[None], axis=0)
    return places * np.where(largest < 0, -1, 1), shown / total if total else shown


def _within(d2: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Sum of squares [L] of the models of one side [L, S] about their centroid."""
    return ((side @ d2) * side).sum(1) / 2 / side.sum(1)
