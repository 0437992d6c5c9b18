"""One verdict of many pairs: features grouped by firing, and the vote by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from moediff.synthetic.planted import COMMON, FIRST, SECOND
from moediff.synthetic.votes import ABSENT, NONE, SAME, grouped, standard, vote

ROWS = 20_000


def fired(*parts: tuple[float, int], seed: int = 0) -> np.ndarray:
    """Values [row, F] of independent features: each an exponential on a share of rows, by its number."""
    columns = []
    for share, number in parts:
        random = np.random.default_rng((seed, number))
        columns.append(random.exponential(size=ROWS) * (random.random(ROWS) < share))
    return standard(np.array(columns).T)


def test_standard_values_multiply_to_correlations() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 50, 3)) ** 2
    one[:, 2] = 4.0
    found = standard(one).T @ standard(other)
    np.testing.assert_allclose(found[:2], np.corrcoef(one.T[:2], other.T)[:2, 2:], atol=1e-12)
    assert (found[2] == 0).all()


def test_features_that_fire_alike_are_one_in_every_order() -> None:
    one = fired((0.1, 0), (0.1, 1), (0.1, 2))
    other = fired((0.1, 2), (0.1, 3), (0.1, 0))
    dead = np.concatenate([np.zeros((ROWS, 1)), fired((0.1, 3))], axis=1)
    groups, firsts = grouped([one, other, dead])
    assert [group.tolist() for group in groups] == [[0, 1, 2], [2, 3, 0], [NONE, 3]]
    np.testing.assert_array_equal(firsts, np.concatenate([one, other[:, [1]]], axis=1))


@pytest.mark.parametrize(("kept", "same"), [(0.5, True), (0.05, False)])
def test_a_feature_seen_in_part_is_the_same_by_its_correlation(kept: float, same: bool) -> None:
    random = np.random.default_rng(0)
    whole = random.exponential(size=(ROWS, 1)) * (random.random((ROWS, 1)) < 0.1)
    part = whole * (random.random((ROWS, 1)) < kept)
    correlation = float(np.corrcoef(whole[:, 0], part[:, 0])[0, 1])
    assert (correlation >= SAME) is same
    groups, _ = grouped([standard(whole), standard(part)])
    assert groups[1].tolist() == [0 if same else 1]


def test_of_two_copies_in_one_dictionary_the_better_joins() -> None:
    random = np.random.default_rng(0)
    whole = random.exponential(size=ROWS) * (random.random(ROWS) < 0.1)
    half = random.random(ROWS) < 0.4
    copies = standard(np.array([whole * half, whole * ~half]).T)
    groups, firsts = grouped([standard(whole[:, None]), copies])
    assert groups[1].tolist() == [1, 0]
    assert firsts.shape[1] == 2


# --- the vote -------------------------------------------------------------------------------------

PAIRS = list(itertools.combinations(range(8), 2))


def says(
    across: dict[tuple[int, int], str] | str, within: dict[tuple[int, int], str]
) -> np.ndarray:
    """What each pair says of one group [P, 1]."""
    found = []
    for pair in PAIRS:
        crosses = pair[0] < 4 <= pair[1]
        word = across if isinstance(across, str) else across.get(pair, ABSENT)
        found.append([word if crosses else within.get(pair, COMMON)])
    return np.array(found, object)


def verdict(across: dict[tuple[int, int], str] | str, within: dict | None = None) -> str:
    (found,) = vote(says(across, within or {}), PAIRS, 8)
    return str(found)


CROSSING = [pair for pair in PAIRS if pair[0] < 4 <= pair[1]]


def test_a_kinds_own_is_what_its_pairs_call_so() -> None:
    assert verdict(FIRST) == FIRST
    assert verdict(SECOND) == SECOND
    assert verdict(COMMON) == COMMON
    assert verdict(ABSENT) == COMMON


def test_half_of_the_pairs_is_not_enough_and_one_more_is() -> None:
    assert len(CROSSING) == 16
    for count, wanted in ((8, COMMON), (9, FIRST)):
        some = dict.fromkeys(CROSSING[:count], FIRST)
        assert verdict(some) == wanted  # absent elsewhere
        assert verdict(dict.fromkeys(CROSSING, COMMON) | some) == wanted


def test_what_one_model_has_alone_in_its_own_kind_too_is_not_the_kinds() -> None:
    """Alone against all others: four of 16 pairs of two kinds, and three of six within the kind."""
    mine = {pair: FIRST for pair in CROSSING if pair[0] == 0}
    assert verdict(mine, {(0, n): FIRST for n in (1, 2, 3)}) == COMMON
    every = {pair: FIRST for pair in PAIRS if pair[1] < 4}
    assert verdict(FIRST, every) == COMMON  # each pair within the kind calls it the alone of one
    every.pop((0, 1))
    assert verdict(FIRST, every) == FIRST
    other = {
        pair: SECOND for pair in PAIRS if pair[0] >= 4
    }  # the other kind's pairs say nothing of it
    assert verdict(FIRST, other) == FIRST
    assert verdict(SECOND, other) == COMMON


def test_kinds_of_one_model_have_no_pair_within() -> None:
    found = vote(np.array([[FIRST, SECOND, COMMON]], object), [(0, 1)], 2)
    assert found.tolist() == [FIRST, SECOND, COMMON]
