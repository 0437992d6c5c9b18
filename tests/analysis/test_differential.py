"""Features one kind uses more: the moderated t by its plain form, false ones counted by other labellings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from moediff.analysis.differential import (
    OFFSET,
    _inverse_trigamma,
    catalogue,
    differential,
    false_share,
    moderated_t,
)

FIRST = np.array([True] * 4 + [False] * 4)


def world(seed: int, features: int = 2000, moved: int = 0, times: float = 1.0) -> np.ndarray:
    """Usage [F, 8]: log-normal over features and models; the first `moved` are so many times larger in A."""
    random = np.random.default_rng(seed)
    noise = np.sqrt(0.05 * 6 / random.chisquare(6, (features, 1)))  # variances differ over features
    logs = random.normal(0, 1.5, (features, 1)) + noise * random.normal(size=(features, 8))
    logs[:moved, :4] += np.log(times)
    usage = np.exp(logs)
    return usage / usage.sum(0)


def test_the_moderated_t_finds_the_prior_that_variances_were_drawn_from() -> None:
    """s^2 = s0^2 d0 / chi^2(d0) over features: with many the t are of Student's law with d0 + d degrees."""
    random = np.random.default_rng(0)
    prior, middle = 5.0, 0.3
    variance = middle * prior / random.chisquare(prior, 40_000)
    values = np.sqrt(variance)[:, None] * random.normal(size=(40_000, 8))
    t = moderated_t(values, FIRST)
    assert stats.kstest(t, stats.t(prior + 6).cdf).pvalue > 0.01
    # The ordinary t of the same has only 6 degrees of freedom.
    plain = stats.ttest_ind(values[:, :4], values[:, 4:], axis=1).statistic
    assert np.quantile(np.abs(plain), 0.999) > np.quantile(np.abs(t), 0.999)


def test_equal_variances_give_one_for_all() -> None:
    values = np.random.default_rng(1).normal(size=(30_000, 8))
    t = moderated_t(values, FIRST)
    assert stats.kstest(t, stats.norm.cdf).pvalue > 0.01


def test_trigamma_is_inverted() -> None:
    for x in (0.01, 0.4, 1.0, 7.0, 500.0):
        assert _inverse_trigamma(float(special.polygamma(1, x))) == pytest.approx(x, rel=1e-9)


def test_false_shares_are_those_counted_one_by_one() -> None:
    random = np.random.default_rng(2)
    t = random.normal(size=60) * 2
    t[5] = -t[6]  # equals
    others = [random.normal(size=60) for _ in range(7)]
    found = false_share(t, others)

    def share(threshold: float) -> float:
        false = np.mean([(np.abs(one) >= threshold).sum() for one in others])
        return float(false / (np.abs(t) >= threshold).sum())

    for number, value in enumerate(np.abs(t)):
        least = min(share(lower) for lower in np.abs(t) if lower <= value)
        assert found[number] == pytest.approx(min(least, 1.0), abs=1e-12)


@pytest.mark.parametrize("times", [1.0, 3.0])
def test_planted_features_are_found_and_few_others(times: float) -> None:
    found, false = 0, 0
    for seed in range(10):
        table = differential(world(seed, moved=200, times=times), 4)
        chosen = table.filter(table["q"] <= 0.1)
        planted = chosen["feature"].to_numpy() < 200
        found, false = found + int(planted.sum()), false + int((~planted).sum())
        assert (chosen.filter(planted)["log2_ratio"] > 0).all() or times == 1
    if times == 1:
        assert found + false <= 20  # of 20,000: nothing differs
    else:
        assert found >= 0.8 * 2000
        assert false <= 0.15 * (found + false)


def test_the_ratio_is_that_of_mean_log_usage_with_its_offset() -> None:
    usage = np.full((10, 4), 0.1)
    usage[0] = [0.19, 0.19, 0, 0]
    usage[1] = [0.01, 0.01, 0.2, 0.2]  # the other eight do not differ: the middle one is among them
    table = differential(usage, 2)
    wanted = np.log2((0.19 + OFFSET / 10) / (OFFSET / 10))
    assert table["log2_ratio"][0] == pytest.approx(wanted, abs=1e-6)


def test_dead_features_have_no_row_and_two_models_no_table() -> None:
    usage = world(0, 50)
    usage[7] = 0
    assert 7 not in differential(usage, 4)["feature"]
    assert differential(usage[:, 3:5], 1).is_empty()
    assert differential(np.zeros((5, 8)), 4).is_empty()


def test_the_catalogue_counts_by_kind_and_says_usage_in_both() -> None:
    usage = world(3, moved=200, times=5.0)
    table = differential(usage, 4)
    kinds = {"moe": [f"moe.{n}" for n in range(4)], "dense": [f"dense.{n}" for n in range(4)]}
    moe, dense = catalogue(table, usage, kinds)
    own = table.filter((table["q"] <= 0.1) & (table["t"] > 0))["feature"].to_numpy()
    assert moe["kind"] == "moe"
    assert moe["features"] == len(own) >= 180
    assert moe["share"] == pytest.approx(usage[own, :4].sum() / 4)
    assert moe["elsewhere"] == pytest.approx(usage[own, 4:].sum() / 4)
    assert moe["share"] > 3 * moe["elsewhere"]
    assert dense["features"] < 0.1 * moe["features"] + 20
