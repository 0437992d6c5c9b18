"""Permutations and intervals: exact answers, plain computations, coverage by simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from moediff.core import resampling
from moediff.core.errors import UserError
from moediff.core.resampling import (
    ACROSS,
    EXCESS,
    pair_interval,
    pair_permutation,
)

FOUR = np.arange(8) < 4  # labels of four A and four B

LABELLINGS = "every other labelling"  # what this null is called


def every_pair(models: int) -> tuple[np.ndarray, np.ndarray]:
    """Every ordered pair."""
    first, second = np.array(list(itertools.permutations(range(models), 2))).T
    return first, second


def crossed(random: np.random.Generator, a: float, b: float, noise: float) -> tuple:
    """A full table of 4 x 4 pairs, its mean 0: values, first and second models."""
    table = (
        a * random.normal(size=(4, 1))
        + b * random.normal(size=(1, 4))
        + noise * random.normal(size=(4, 4))
    )
    first, second = (part.ravel() for part in np.indices((4, 4)))
    return table.ravel(), first, second + 4


# --- labels ----------------------------------------------------------------------------------


def test_exact_p_counts_the_observed_among_the_labellings() -> None:
    assert resampling.exact_p(3.0, [1.0, 2.0, 3.0, 4.0]) == (pytest.approx(3 / 5), 1 / 5)
    assert resampling.exact_p(5.0, np.zeros(34)) == (pytest.approx(1 / 35), 1 / 35)
    assert resampling.exact_p(-1.0, [0.0, 0.0])[0] == 1


def test_exact_p_counts_what_differs_by_rounding_as_equal() -> None:
    assert resampling.exact_p(0.1 + 0.2, [0.3, 0.3, 0.0])[0] == pytest.approx(3 / 4)


def test_labellings_are_all_there_are_and_the_true_one_is_first() -> None:
    found = resampling.labellings(8, 4)
    assert found[0] == (0, 1, 2, 3)
    assert len(set(found)) == 70
    halves = resampling.labellings(8, 4, unordered=True)
    assert halves[0] == (0, 1, 2, 3)
    assert len(halves) == 35
    rest = {tuple(sorted(set(range(8)) - set(half))) for half in halves}
    assert set(halves) | rest == set(found)
    assert len(resampling.labellings(6, 2)) == 15


@pytest.mark.parametrize(
    ("sources", "size", "unordered"), [(4, 0, False), (4, 4, False), (6, 2, True)]
)
def test_labellings_that_mean_nothing_are_refused(sources: int, size: int, unordered: bool) -> None:
    with pytest.raises(UserError, match=r"cannot be relabelled|are not half"):
        resampling.labellings(sources, size, unordered)


def test_relabelled_gives_both_tails_and_the_quantiles_of_the_others() -> None:
    found = resampling.relabelled([9.0, *range(1, 70)], LABELLINGS)
    assert found["estimate"] == 9
    assert found["p"] == {
        "above": pytest.approx(62 / 70), "below": pytest.approx(10 / 70), "smallest": 1 / 70,
    }  # fmt: skip
    null = found["null"]
    assert (null["kind"], null["labellings"], null["q50"]) == (LABELLINGS, 69, 35)
    assert (null["q05"], null["q95"]) == (pytest.approx(4.4), pytest.approx(65.6))
    with pytest.raises(UserError, match="no other labelling"):
        resampling.relabelled([1.0], LABELLINGS)


def test_additive_pairs_give_the_two_sample_permutation_test() -> None:
    own = np.random.default_rng(0).normal(size=7)
    labels = np.array([0, 1, 1, 0, 0, 1, 0], bool)  # not in order of label
    first, second = every_pair(7)
    found = pair_permutation(own[first] - own[second], first, second, labels)
    wanted = stats.permutation_test(
        (own[labels], own[~labels]), lambda x, y: x.mean() - y.mean(), alternative="greater"
    )
    assert found["estimate"] == pytest.approx(wanted.statistic)
    assert found["p"]["above"] == pytest.approx(wanted.pvalue)
    assert found["p"]["smallest"] == 1 / 35
    assert found["null"]["labellings"] == 34


def test_models_that_differ_wholly_have_the_smallest_p() -> None:
    own = np.array([5.0, 6, 7, 8, 1, 2, 3, 4])
    first, second = every_pair(8)
    found = pair_permutation(own[first] - own[second], first, second, FOUR)
    assert found["p"] == {"above": pytest.approx(1 / 70), "below": 1, "smallest": 1 / 70}
    assert found["estimate"] == 4


def test_the_excess_equals_plain_loops_and_counts_halves_once() -> None:
    random = np.random.default_rng(1)
    first, second = np.array(list(itertools.combinations(range(8), 2))).T
    values = random.normal(size=28) + (FOUR[first] != FOUR[second])

    def excess(half: set[int]) -> float:
        across, within = [], []
        for value, i, j in zip(values, first, second, strict=True):
            (across if (i in half) != (j in half) else within).append(value)
        return np.mean(across) - np.mean(within)

    others = [
        excess({0, *rest})
        for rest in itertools.combinations(range(1, 8), 3)
        if rest != (1, 2, 3)
    ]  # fmt: skip
    observed = excess({0, 1, 2, 3})
    found = pair_permutation(values, first, second, FOUR, EXCESS)
    assert found["estimate"] == pytest.approx(observed)
    assert found["p"]["above"] == pytest.approx((1 + sum(o >= observed for o in others)) / 35)
    assert found["p"]["smallest"] == 1 / 35
    assert found["null"]["q95"] == pytest.approx(np.quantile(others, 0.95))


def test_drawn_labels_come_near_the_exact_p_and_follow_the_seed() -> None:
    own = np.random.default_rng(2).normal(size=10)
    labels = np.arange(10) % 2 == 0
    first, second = every_pair(10)
    pairs = (own[first] - own[second], first, second, labels)
    exact = pair_permutation(*pairs)
    drawn = pair_permutation(*pairs, most=251)  # of 252
    assert drawn["p"]["smallest"] == 1 / 252
    assert 0.1 < exact["p"]["above"] < 0.9
    assert drawn["p"]["above"] == pytest.approx(exact["p"]["above"], abs=0.1)
    assert drawn == pair_permutation(*pairs, most=251)
    assert drawn != pair_permutation(*pairs, most=251, seed=1)


@pytest.mark.parametrize("whole", [True, False])
def test_models_that_are_alike_are_found_different_no_more_often_than_alpha(whole: bool) -> None:
    """Exactly so with every pair; less often with pairs of two kinds alone. Pairs shuffled as if they
    were independent find a difference that is not there."""
    random = np.random.default_rng(3)
    first, second = every_pair(8)
    if not whole:
        kept = FOUR[first] != FOUR[second]
        first, second = first[kept], second[kept]
    across = FOUR[first] & ~FOUR[second]
    runs, found, naive = 700, 0, 0
    for _ in range(runs):
        own = random.normal(size=8)
        noise = random.normal(size=(8, 8))
        values = own[first] - own[second] + 0.7 * (noise - noise.T)[first, second]
        found += pair_permutation(values, first, second, FOUR)["p"]["above"] <= 3.5 / 70
        naive += stats.ttest_1samp(values[across], 0, alternative="greater").pvalue <= 3.5 / 70
    assert naive / runs > 0.15
    sd = (3 / 70 / runs) ** 0.5
    assert found / runs <= 3 / 70 + 2.5 * sd
    if whole:
        assert found / runs >= 3 / 70 - 2.5 * sd


@pytest.mark.parametrize(
    ("first", "second", "statistic", "message"),
    [
        ([0, 1], [2, 9], ACROSS, "second model of a pair is not one of the 4"),
        ([0, 1], [2, 1], ACROSS, "model 1 is paired with itself"),
        ([0, 0], [2, 2], ACROSS, "average its dictionary seeds first"),
        ([0, 1, 1], [2, 3, 2], ACROSS, "2 values of pairs, 3 first"),
        ([2, 3], [0, 1], ACROSS, "none is left"),
        ([0, 1], [2, 3], "median", "unknown statistic 'median'"),
    ],
)
def test_pairs_that_mean_nothing_are_refused(
    first: list, second: list, statistic: str, message: str
) -> None:
    for function in (pair_permutation, pair_interval):
        with pytest.raises(UserError, match=message):
            function([1.0, 2.0], first, second, [True, True, False, False], statistic)


# --- intervals -------------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", [1, 1.7, 3, 6.2, 40, 9999])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_t_quantile_equals_scipy(freedom: float, level: float) -> None:
    wanted = stats.t.ppf((1 + level) / 2, freedom)
    assert resampling.t_quantile(level, freedom) == pytest.approx(wanted, rel=1e-12)


def test_t_quantile_of_many_degrees_is_normal() -> None:
    assert resampling.t_quantile(0.95, 1e9) == pytest.approx(1.959964, abs=1e-6)


def test_a_full_table_gives_the_variances_of_its_row_and_column_means() -> None:
    random = np.random.default_rng(4)
    table = random.normal(size=(4, 3)) + 5 * random.normal(size=(4, 1))
    first, second = (part.ravel() for part in np.indices((4, 3)))
    found = pair_interval(table.ravel(), first, second + 4, np.arange(7) < 4)
    parts = [table.mean(1).var(ddof=1) / 4, table.mean(0).var(ddof=1) / 3]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 2)
    half = stats.t.ppf(0.975, freedom) * sum(parts) ** 0.5
    assert found["estimate"] == pytest.approx(table.mean())
    assert found["interval"] == pytest.approx([table.mean() - half, table.mean() + half])


def test_one_side_that_varies_gives_the_t_interval_over_its_models() -> None:
    own = np.array([1.0, 2, 4, 9])
    first, second = (part.ravel() for part in np.indices((4, 4)))
    found = pair_interval(np.repeat(own, 4), first, second + 4, FOUR)
    wanted = stats.t.interval(0.95, 3, own.mean(), stats.sem(own))
    assert found["interval"] == pytest.approx(wanted)
    alike = pair_interval(np.ones(16), first, second + 4, FOUR)
    assert alike == {"estimate": 1, "interval": [1, 1]}


@pytest.mark.parametrize(
    ("a", "b", "noise", "low", "high"),
    [(1, 1, 0, 0.93, 0.98), (1, 0.3, 0.5, 0.93, 0.98), (0, 0, 1, 0.97, 1)],
)
def test_intervals_over_4_and_4_models_cover(
    a: float, b: float, noise: float, low: float, high: float
) -> None:
    random = np.random.default_rng(5)
    runs, covered, naive = 600, 0, 0
    for _ in range(runs):
        values, first, second = crossed(random, a, b, noise)
        under, over = pair_interval(values, first, second, FOUR)["interval"]
        covered += under <= 0 <= over
        naive += stats.ttest_1samp(values, 0).pvalue > 0.05
    assert low <= covered / runs <= high
    if a:
        assert naive / runs < 0.85  # sixteen pairs are not sixteen models


def test_intervals_of_the_excess_cover() -> None:
    """Models are points in five dimensions, a pair's value the square of their distance: its excess
    is the square of the distance between the two kinds."""
    random = np.random.default_rng(6)
    first, second = np.array(list(itertools.combinations(range(8), 2))).T
    apart = np.where(FOUR, 1.5, 0)[:, None] * np.eye(5)[0]
    runs, covered = 500, 0
    for _ in range(runs):
        own = random.normal(size=(8, 5)) + apart
        values = ((own[first] - own[second]) ** 2).sum(1)
        low, high = pair_interval(values, first, second, FOUR, EXCESS)["interval"]
        covered += low <= 1.5**2 <= high
    assert 0.92 <= covered / runs <= 0.98


def test_models_without_a_pair_that_counts_do_not_narrow_an_interval() -> None:
    random = np.random.default_rng(0)
    table = random.normal(size=(2, 2))
    first, second = (part.ravel() for part in np.indices((2, 2)))
    alone = pair_interval(table.ravel(), first, second + 2, np.arange(4) < 2)
    # Two more models of each kind, in a pair of one kind only: nothing is known of them across kinds.
    values = np.append(table.ravel(), [5.0, 6.0])
    places = np.append(first, [2, 6]), np.append(second + 4, [3, 7])
    assert pair_interval(values, *places, FOUR) == alone


def test_one_model_of_a_kind_has_no_interval() -> None:
    with pytest.raises(UserError, match="two or more of each kind"):
        pair_interval([1.0, 2.0], [0, 0], [1, 2], [True, False, False])


def test_seeds_and_pairs_have_their_own_variance() -> None:
    found = resampling.between_and_within([[1.0, 3.0], [5.0, 7.0], [9.0]])
    assert found["means"] == [2, 6, 9]
    assert found["within"] == pytest.approx(2)  # both pairs with two seeds have 2
    assert found["between"] == pytest.approx(np.var([2, 6, 9], ddof=1) - 2 * (0.5 + 0.5 + 1) / 3)
    alone = resampling.between_and_within([[1.0], [4.0]])
    assert alone == {"means": [1, 4], "within": None, "between": 4.5}
    random = np.random.default_rng(10)
    values = 3 * random.normal(size=(3000, 1)) + 2 * random.normal(size=(3000, 3))
    found = resampling.between_and_within(values)
    assert found["between"] == pytest.approx(9, rel=0.1)
    assert found["within"] == pytest.approx(4, rel=0.05)
    same = resampling.between_and_within(random.normal(size=(2, 2)) * 0 + [[1, 2], [1, 2]])
    assert same["between"] == 0


@pytest.mark.parametrize("units", [1, 4, 40, 1000])
def test_nothing_in_n_units_has_the_upper_bound_of_clopper_and_pearson(units: int) -> None:
    exact = stats.binomtest(0, units).proportion_ci(0.95, method="exact")
    assert resampling.zero_bound(units) == pytest.approx(exact.high)
    assert resampling.zero_bound(units, 0.9) == pytest.approx(1 - 0.05 ** (1 / units))


def test_no_bound_comes_of_no_units() -> None:
    with pytest.raises(UserError, match="no bound from 0 units"):
        resampling.zero_bound(0)


def test_the_median_of_a_null_is_that_which_its_quantiles_have() -> None:
    found = resampling.relabelled([5.0, 0.0, 0.0, 0.1, 9.0], LABELLINGS)
    assert found["null"]["q50"] == resampling.null_median([0.0, 9.0, 0.1, 0.0]) == 0.05
    with pytest.raises(UserError, match="not a finite number"):
        resampling.null_median([np.nan])
