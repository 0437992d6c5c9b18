"""Distances divided by labels: points whose answer is known, and plain slow forms of every statistic."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import f_oneway

from moediff.analysis import permanova
from moediff.core.resampling import exact_p


def squared(points) -> np.ndarray:
    """Squared Euclidean distances of points [S, d], or [S] on a line."""
    points = np.asarray(points, float).reshape(len(points), -1)
    return ((points[:, None] - points[None]) ** 2).sum(2)


def first(count: int, size: int) -> np.ndarray:
    """The one labelling in which the first `size` of so many are the first kind."""
    return (np.arange(count) < size)[None]


# --- plain forms --------------------------------------------------------------------------------


def plain_parts(d2: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """SS_A and SS_W, pair by pair as Anderson (2001) writes them."""
    count = len(d2)
    pairs = list(itertools.combinations(range(count), 2))
    total = sum(d2[i, j] for i, j in pairs) / count
    within = 0.0
    for kind in (True, False):
        size = sum(label == kind)
        within += sum(d2[i, j] for i, j in pairs if label[i] == label[j] == kind) / size
    return total - within, within


def plain_dispersion(points: np.ndarray, label: np.ndarray) -> float:
    """F of distances of points from the mean of those that bear their label (Anderson 2006)."""
    points = points.reshape(len(points), -1)
    groups = [points[label], points[~label]]
    distances = [np.linalg.norm(group - group.mean(0), axis=1) for group in groups]
    return float(f_oneway(*distances).statistic)


@pytest.mark.parametrize("sizes", [(4, 4), (3, 5), (2, 3)])
def test_statistics_are_their_plain_forms_under_every_label(sizes: tuple[int, int]) -> None:
    count = sum(sizes)
    points = np.random.default_rng(count).normal(size=(count, 6))
    d2, labels = squared(points), permanova.every_labelling(count, sizes[0])
    apart = permanova.r2(d2, labels)
    pseudo_f, ratio = permanova.f_of(apart, count), permanova.between_over_within(d2, labels)
    dispersion_f = permanova.f_of(permanova.dispersion(d2, labels), count)
    for number, label in enumerate(labels):
        among, within = plain_parts(d2, label)
        assert apart[number] == pytest.approx(among / (among + within))
        assert pseudo_f[number] == pytest.approx(among / (within / (count - 2)))
        assert dispersion_f[number] == pytest.approx(plain_dispersion(points, label))
        groups = {True: [], False: []}
        for i, j in itertools.combinations(range(count), 2):
            groups[label[i] == label[j]].append(np.sqrt(d2[i, j]))
        assert ratio[number] == pytest.approx(np.mean(groups[False]) / np.mean(groups[True]))


def test_labellings_are_every_split_once_and_the_true_one_first() -> None:
    halves, others = permanova.every_labelling(8, 4), permanova.every_labelling(5, 2)
    assert (len(halves), len(others)) == (35, 10)
    assert halves[0].tolist() == [True] * 4 + [False] * 4
    assert len({frozenset((tuple(row), tuple(~row))) for row in halves}) == 35
    assert (others.sum(1) == 2).all()


# --- points whose answer is known ---------------------------------------------------------------


def test_two_pairs_on_a_line() -> None:
    d2 = squared([0, 2, 10, 12])  # about their mean of 6: 104; each pair about its own: 2
    assert permanova.r2(d2, first(4, 2)) == pytest.approx([100 / 104])
    assert permanova.f_of(np.array([100 / 104]), 4) == pytest.approx([100 / (4 / 2)])
    assert permanova.between_over_within(d2, first(4, 2)) == pytest.approx([10 / 2])
    assert permanova.centroid_distances(d2, first(4, 2)) == pytest.approx(np.ones((1, 4)))


def test_a_narrow_and_a_wide_triple_on_a_line() -> None:
    d2 = squared([-1, 0, 1, 7, 10, 13])
    distances = permanova.centroid_distances(d2, first(6, 3))
    assert distances == pytest.approx(np.array([[1, 0, 1, 3, 0, 3]]))
    # Means 2/3 and 2: 8/3 between; 2/3 and 6 within, of four degrees of freedom.
    f = permanova.f_of(permanova.dispersion(d2, first(6, 3)), 6)
    assert f == pytest.approx([(8 / 3) / ((2 / 3 + 6) / 4)])


def test_what_lies_at_one_place_has_nothing_to_divide() -> None:
    labels, nowhere = permanova.every_labelling(8, 4), np.zeros((8, 8))
    assert (permanova.r2(nowhere, labels) == 0).all()
    assert (permanova.dispersion(nowhere, labels) == 0).all()
    assert (permanova.between_over_within(nowhere, labels) == 1).all()
    places, shown = permanova.positions(nowhere)
    assert not places.any()
    assert not shown.any()


def test_kinds_at_two_places_have_everything_between_them() -> None:
    d2 = squared([0, 0, 0, 5, 5, 5])
    assert permanova.r2(d2, first(6, 3)) == [1]
    assert permanova.f_of(permanova.r2(d2, first(6, 3)), 6) == [np.inf]
    assert permanova.between_over_within(d2, first(6, 3)) == [np.inf]
    assert permanova.dispersion(d2, first(6, 3)) == [0]


def test_models_equally_far_from_each_other_are_divided_by_no_label() -> None:
    d2, labels = 0.3 * (1 - np.eye(8)), permanova.every_labelling(8, 4)
    assert (permanova.dispersion(d2, labels) == 0).all()  # rounding is no difference
    apart = permanova.r2(d2, labels)
    assert apart == pytest.approx(np.full(35, 1 / 7))
    assert exact_p(apart[0], apart[1:])[0] == 1


def test_two_models_of_each_kind_say_nothing_of_dispersion() -> None:
    d2, labels = squared([0, 1, 9, 14]), permanova.every_labelling(4, 2)
    spread = permanova.dispersion(d2, labels)
    assert spread == pytest.approx(np.ones(3))
    assert np.isinf(permanova.f_of(spread, 4)).all()


def test_distances_that_no_points_have_are_divided_all_the_same() -> None:
    d2 = np.array([[0, 9, 1, 1], [9, 0, 1, 1], [1, 1, 0, 9], [1, 1, 9, 0]], float)
    labels = permanova.every_labelling(4, 2)
    assert permanova.r2(d2, labels)[0] == pytest.approx(1 - (9 / 2 + 9 / 2) / (22 / 4))
    assert np.isfinite(permanova.centroid_distances(d2, labels)).all()


# --- the map ------------------------------------------------------------------------------------


def test_a_map_keeps_the_distances_that_fit_on_it() -> None:
    points = np.random.default_rng(3).normal(size=(7, 2))
    places, shown = permanova.positions(squared(points))
    assert squared(places) == pytest.approx(squared(points))
    assert shown.sum() == pytest.approx(1)
    assert shown[0] > shown[1] > 0
    assert (places.max(0) == np.abs(places).max(0)).all()  # whatever sign an eigenvector had


def test_a_map_says_what_share_of_squared_distance_an_axis_shows() -> None:
    places, shown = permanova.positions(squared([[3, 0, 0], [-3, 0, 0], [0, 2, 1], [0, -2, -1]]))
    assert shown == pytest.approx([18 / 28, 10 / 28])
    assert sorted(places[:, 0]) == pytest.approx([-3, 0, 0, 3])
    corners = np.eye(4)  # three axes of one size: two show two thirds
    assert permanova.positions(squared(corners))[1] == pytest.approx([1 / 3, 1 / 3])
