"""Scores of attributions, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from moediff.synthetic import grid, scoring
from moediff.synthetic.planted import (
    COMMON,
    FIRST,
    KINDS,
    SECOND,
    Planted,
    graded,
    owned,
    owners,
    planted,
)
from moediff.synthetic.scoring import Found, score


def world_of(amounts: np.ndarray) -> Planted:
    """Each planted feature is an axis of its own in each source that has it."""
    features, sources = amounts.shape
    parts = [np.eye(features) * amounts[:, [s]] for s in range(sources)]
    rows = [np.zeros((1, features))] * sources
    return Planted(rows, np.concatenate(parts, axis=1), owners(amounts))


PAIR = world_of(
    owned(2, everyone=3, first=2, second=2)
)  # 3 and 4 are the first's, 5 and 6 the second's
P = 7


def feature(first: dict[int, float], second: dict[int, float]) -> np.ndarray:
    """A decoder [2 P] over a pair, by axis."""
    found = np.zeros((2, P))
    for source, axes in enumerate((first, second)):
        for axis, value in axes.items():
            found[source, axis] = value
    return found.ravel()


def scored(*features: tuple[np.ndarray, str], truth: Planted = PAIR) -> dict:
    directions = np.array([row for row, _ in features]).reshape(-1, truth.directions.shape[1])
    return score(Found(directions, np.array([kind for _, kind in features], dtype=str)), truth)


def test_what_is_all_right_scores_one() -> None:
    found = scored(
        (feature({3: 2.0}, {}), FIRST),
        (
            feature({4: -0.1}, {0: 0.01}),
            FIRST,
        ),  # a sign and a size mean nothing; nor does elsewhere
        (feature({}, {5: 1.0}), SECOND),
        (feature({}, {6: 1.0}), SECOND),
        *((feature({n: 1.0}, {n: 1.0}), COMMON) for n in range(3)),
    )
    assert (found["precision"], found["recall"], found["f1"], found["false_share"]) == (1, 1, 1, 0)
    assert (found["live"], found["attributed"], found["planted"], found["reached"]) == (7, 4, 4, 4)


def test_every_way_to_be_wrong() -> None:
    found = scored(
        (feature({3: 1.0}, {}), FIRST),  # right
        (feature({3: 0.9, 0: 0.1}, {}), FIRST),  # right again, of the same one
        (feature({0: 1.0}, {0: 1.0}), FIRST),  # common in truth
        (feature({}, {5: 1.0}), COMMON),  # reached, not attributed
        (feature({4: 1.0}, {6: 1.0}), SECOND),  # two in one: right in the second
        (feature({}, {}), SECOND),  # resembles nothing
        (feature({}, {3: 1.0}), SECOND),  # an axis of the first's, where the second has none
        (feature({1: 1.0}, {1: 1.0}), COMMON),
    )
    assert {key: found[key] for key in grid.COUNTS} == {
        "attributed": 6, "right": 3, "planted": 4, "recovered": 2, "reached": 4, "live": 8,
    }  # fmt: skip
    assert (found["precision"], found["recall"], found["f1"]) == (0.5, 0.5, 0.5)
    assert found["false_share"] == 3 / 8


def test_what_resembles_nothing_is_not_right() -> None:
    found = scored((np.zeros(4), FIRST), (np.zeros(4), SECOND), truth=world_of(owned(2, 0, 1, 1)))
    assert (found["attributed"], found["right"], found["recovered"]) == (2, 0, 0)


def test_the_kinds_exchanged_score_nothing() -> None:
    found = scored((feature({3: 1.0}, {}), SECOND), (feature({}, {5: 1.0}), FIRST))
    assert (found["precision"], found["recall"], found["f1"], found["reached"]) == (0, 0, 0, 2)


@pytest.mark.parametrize(("cosine", "recovered"), [(0.71, 1), (0.69, 0)])
def test_near_is_a_cosine_of_seven_tenths(cosine: float, recovered: int) -> None:
    rest = (1 - cosine**2) ** 0.5
    found = scored((feature({3: cosine, 0: rest / 2**0.5, 1: rest / 2**0.5}, {}), FIRST))
    assert found["right"] == 1
    assert found["recovered"] == found["reached"] == recovered


@pytest.mark.parametrize(("other", "recovered"), [(0.41, 1), (0.39, 0)])
def test_a_panel_must_be_near_on_average_over_the_kind(other: float, recovered: int) -> None:
    truth = world_of(owned(4, everyone=1, first=1, second=1))
    rest = (1 - other**2) ** 0.5
    parts = [[0, 1, 0], [rest, other, 0], [1, 0, 0], [1, 0, 0]]  # cosine 1, `other`; a mean of 0.7
    found = scored((np.ravel(parts).astype(float), FIRST), truth=truth)
    assert (found["recovered"], found["right"], found["planted"]) == (recovered, 1, 2)


def test_what_one_model_alone_has_is_no_kind_s_own() -> None:
    truth = world_of(owned(4, first=1, private=4))
    private = np.eye(5)[1]  # of source 0
    found = scored((np.ravel([private, 0 * private, 0 * private, 0 * private]), FIRST), truth=truth)
    assert (found["planted"], found["attributed"], found["right"]) == (1, 1, 0)


def test_nothing_attributed_and_nothing_planted() -> None:
    nothing = scored((feature({3: 1.0}, {}), COMMON))
    assert (nothing["precision"], nothing["recall"], nothing["f1"]) == (None, 0, 0)
    null = world_of(owned(2, everyone=P))
    found = scored((feature({3: 1.0}, {}), FIRST), (feature({4: 1.0}, {}), COMMON), truth=null)
    assert (found["precision"], found["recall"], found["f1"]) == (0, None, None)
    assert found["false_share"] == 0.5
    empty = scored(truth=PAIR)
    assert (empty["live"], empty["f1"], empty["false_share"]) == (0, 0, None)


def test_a_feature_in_part_of_a_kind_is_near_by_the_models_that_have_it() -> None:
    has = owned(4, everyone=1, first=1, second=1)
    amounts = graded(has, None, 0.5)  # the first kind's in source 1 alone
    parts = np.split(np.eye(3)[1] * amounts[1][:, None], 4)
    truth = Planted([np.zeros((1, 3))] * 4, world_of(amounts).directions, owners(has))
    found = scored((np.ravel(parts), FIRST), truth=truth)
    assert (found["right"], found["recovered"], found["planted"]) == (1, 1, 2)
    elsewhere = np.roll(np.ravel(parts), -3)  # the same axis, of source 0
    found = scored((elsewhere, FIRST), truth=truth)
    assert (found["right"], found["recovered"]) == (0, 0)


def test_the_truth_scores_one_and_blind_guesses_what_chance_gives() -> None:
    truth = planted(
        1, (32,) * 8, graded(owned(8, 44, 10, 10), 3, 1), 2, 0, owner=owners(owned(8, 44, 10, 10))
    )
    perfect = score(Found(truth.directions, truth.owner), truth)
    assert (perfect["precision"], perfect["recall"], perfect["false_share"]) == (1, 1, 0)
    random = np.random.default_rng(0)
    blind = [
        score(Found(truth.directions, random.choice([*KINDS, COMMON], 64)), truth)
        for _ in range(300)
    ]
    # Of 64 features 10 are the kind's that is guessed, and a third of them is guessed to be.
    assert np.mean([one["precision"] for one in blind]) == pytest.approx(10 / 64, abs=0.01)
    assert np.mean([one["recall"] for one in blind]) == pytest.approx(1 / 3, abs=0.02)


def test_nearness_is_a_mean_of_plain_cosines() -> None:
    random = np.random.default_rng(0)
    truth = planted(1, (4, 6, 5), owned(3, everyone=5, private=3), 2, 0)
    found = Found(random.normal(size=(4, 15)), np.array([FIRST] * 4))
    near = scoring.nearness(found, truth, np.array([True, False, True]))
    for f in range(4):
        for p in range(8):
            parts = [
                (found.directions[f, cut], truth.directions[p, cut])
                for cut in (slice(0, 4), slice(10, 15))
            ]
            wanted = [
                abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in parts if b.any()
            ]
            assert near[f, p] == pytest.approx(np.mean(wanted or [0]))
