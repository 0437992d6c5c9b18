"""Intervals over groups of documents: they cover, domains keep their share, one domain is the plain case."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from moediff.core.bootstrap import LEAST_GROUPS, Units, group_bootstrap, group_interval
from moediff.core.errors import UserError


def alone(group: np.ndarray) -> Units:
    """Groups of one domain."""
    return Units(group, np.zeros_like(group))


def clustered(random: np.random.Generator, groups: int) -> tuple:
    """Rows of groups of 5 to 40 tokens with an effect of their own; the true ratio is 2."""
    sizes = random.integers(5, 41, groups)
    group = np.repeat(np.arange(groups), sizes)
    weights = random.uniform(0.5, 1.5, len(group))
    values = weights * (2 + np.repeat(random.normal(size=groups), sizes))
    return values + 0.5 * random.normal(size=len(group)), weights, group


# --- the unit ---


def test_groups_resampled_cover_and_tokens_resampled_do_not() -> None:
    random = np.random.default_rng(7)
    runs = 250
    covered = {"group": 0, "few": 0, "token": 0}
    for _ in range(runs):
        for kind, count in (("group", 60), ("few", 12), ("token", 60)):
            values, weights, group = clustered(random, count)
            unit = np.arange(len(values)) if kind == "token" else group
            low, high = group_bootstrap(values, weights, alone(unit), samples=300)["interval"]
            covered[kind] += low <= 2 <= high
    assert 0.91 <= covered["group"] / runs <= 0.98
    assert 0.91 <= covered["few"] / runs <= 0.98
    assert covered["token"] / runs < 0.6


@pytest.mark.parametrize("copies", [4, 9])
def test_documents_that_are_copies_of_each_other_say_no_more_than_their_groups(copies: int) -> None:
    random = np.random.default_rng(3)
    tops, bottoms = random.normal(1, 1, 50), random.uniform(0.5, 1.5, 50)
    once = group_bootstrap(tops, bottoms, alone(np.arange(50)))
    group = np.repeat(np.arange(50), copies)
    many = group_bootstrap(tops[group], bottoms[group], alone(group))
    assert many["interval"] == pytest.approx(once["interval"])
    assert many["text_groups"] == 50
    documents = group_bootstrap(tops[group], bottoms[group], alone(np.arange(len(group))))
    assert width(documents) == pytest.approx(width(once) / copies**0.5, rel=0.12)


def width(found: dict) -> float:
    low, high = found["interval"]
    return high - low


# --- domains ---


def domains_apart(random: np.random.Generator, sizes: tuple, means: tuple, sd: float) -> tuple:
    """A value a group, of domains of so many groups and of such means."""
    domain = np.repeat(np.arange(len(sizes)), sizes)
    return np.array(means)[domain] + sd * random.normal(size=len(domain)), domain


def test_what_domains_differ_by_widens_no_interval() -> None:
    """The variance within domains alone: sd / sqrt(n), where a plain draw adds that between their means."""
    values, domain = domains_apart(np.random.default_rng(0), (100, 300), (0, 10), 1)
    ones, group = np.ones(400), np.arange(400)
    found = group_bootstrap(values, ones, Units(group, domain), samples=4000)
    within = [values[domain == d].var(ddof=1) for d in range(2)]
    wanted = 2 * 1.966 * np.sqrt(100 * within[0] + 300 * within[1]) / 400
    assert width(found) == pytest.approx(wanted, rel=0.04)
    plain = group_bootstrap(values, ones, alone(group), samples=4000)
    assert plain["estimate"] == found["estimate"]
    assert width(plain) == pytest.approx(2 * 1.966 * values.std(ddof=1) / 20, rel=0.04)
    assert width(plain) > 4 * width(found)


@pytest.mark.parametrize(
    ("sizes", "spread"),
    [((30, 30), (1, 1)), ((4, 8, 20), (1, 1, 1)), ((5, 40), (3, 1)), ((1, 1, 20), (1, 1, 1))],
)
def test_intervals_of_groups_drawn_in_their_domains_cover(sizes: tuple, spread: tuple) -> None:
    random = np.random.default_rng(11)
    domain = np.repeat(np.arange(len(sizes)), sizes)
    runs, covered = 400, 0
    group = np.arange(len(domain))
    for _ in range(runs):
        # A group's sum, and so what its domain weighs in the ratio, differs as files do; the ratio is 2.
        weights = random.uniform(0.5, 1.5, len(domain))
        values = weights * (2 + np.array(spread)[domain] * random.normal(size=len(domain)))
        low, high = group_bootstrap(values, weights, Units(group, domain), samples=300)["interval"]
        covered += low <= 2 <= high
    assert 0.92 <= covered / runs <= 0.985


def test_of_one_domain_the_interval_is_that_of_a_plain_bootstrap() -> None:
    """The expanded percentiles of Hesterberg, drawn as NumPy's generator of that seed draws them."""
    values, weights, group = clustered(np.random.default_rng(8), 30)
    found = group_bootstrap(values, weights, Units(group, np.full(len(group), "only")), samples=500)
    top, bottom = (np.bincount(group, part) for part in (values, weights))
    random = np.random.default_rng(0)
    drawn = [random.integers(30, size=30) for _ in range(500)]
    ratios = [top[some].sum() / bottom[some].sum() for some in drawn]
    tail = stats.norm.cdf(-np.sqrt(30 / 29) * stats.t.ppf(0.975, 29))
    assert found["interval"] == pytest.approx(np.quantile(ratios, [tail, 1 - tail]))


def test_a_group_of_two_domains_is_two_and_groups_are_counted_by_domain() -> None:
    units = Units([7, 7, 7, 5, 7], [1, 0, 1, 0, 1])
    assert units.size() == 3
    assert units.counts(["a", "b", "never seen"]) == {"all": 3, "a": 2, "b": 1}
    assert Units([7, 8], ["code", "prose"]).counts() == {"all": 2, "code": 1, "prose": 1}


def test_the_only_group_of_a_domain_still_counts_for_the_variance() -> None:
    """Drawn from alone it would always be drawn: 12 domains of one group are drawn from as one."""
    values = np.random.default_rng(1).normal(size=12)
    each = group_bootstrap(values, np.ones(12), Units(np.arange(12), np.arange(12)))
    assert (
        each["interval"] == group_bootstrap(values, np.ones(12), alone(np.arange(12)))["interval"]
    )
    domain = np.array([0, *[1] * 8, *[2] * 4])
    values = np.where(domain == 0, 100.0, 0.0)
    low, high = group_interval(values, np.ones(13), Units(np.arange(13), domain))
    assert low == 0
    assert high > 2 * 100 / 13  # the smallest domain is drawn from with it


# --- the bootstrap itself ---


def test_the_bootstrap_is_of_a_ratio_of_sums_and_follows_its_seed() -> None:
    values, weights, group = clustered(np.random.default_rng(8), 30)
    units = Units(group, group % 2)
    found = group_bootstrap(values, weights, units)
    assert found["estimate"] == pytest.approx(values.sum() / weights.sum())
    assert found["text_groups"] == 30
    assert found == group_bootstrap(values, weights, units)
    assert found != group_bootstrap(values, weights, units, seed=1)
    # Sums of groups, in another order and with other names, are all it sees.
    order = np.random.default_rng(0).permutation(len(values))
    renamed = Units(7 * group[order] - 3, group[order] % 2)
    again = group_bootstrap(values[order], weights[order], renamed)
    assert again["interval"] == pytest.approx(found["interval"])


def test_the_bootstrap_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(9).normal(size=400)
    found = group_bootstrap(values, np.ones(400), alone(np.arange(400)), samples=4000)
    low, high = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert width(found) == pytest.approx(high - low, rel=0.05)


def test_too_few_groups_have_no_interval() -> None:
    few = alone(np.arange(LEAST_GROUPS - 1))
    assert group_interval(np.ones(LEAST_GROUPS - 1), np.ones(LEAST_GROUPS - 1), few) is None
    enough = alone(np.arange(LEAST_GROUPS))
    assert group_interval(np.ones(LEAST_GROUPS), np.ones(LEAST_GROUPS), enough) == [1, 1]


@pytest.mark.parametrize(
    ("bottom", "group", "message"),
    [
        (np.ones(20), np.arange(20) // 4, "5 groups are too few"),
        (np.ones(19), np.arange(20), "20 numerators, 19 denominators"),
        (-np.ones(20), np.arange(20), "below 0"),
        (np.zeros(20), np.arange(20), "above 0"),
        (np.full(20, np.nan), np.arange(20), "denominators: nan is not a finite number"),
    ],
)
def test_ratios_that_mean_nothing_are_refused(
    bottom: np.ndarray, group: np.ndarray, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        group_bootstrap(np.ones(20), bottom, alone(group))
