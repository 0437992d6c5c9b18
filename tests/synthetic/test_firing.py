"""Which planted features fire: how often, which together, and which with their parent alone."""

from __future__ import annotations

import numpy as np
import pytest

from moediff.config.planted import frequencies
from moediff.synthetic.firing import Law, codes, fires

ROWS = 200_000


def drawn(law: Law, features: int = 20, active: int = 2, rows: int = ROWS) -> np.ndarray:
    return fires(rows, features, active, law, np.random.default_rng(0))


def test_by_the_plain_law_as_many_as_asked_fire_on_every_row() -> None:
    found = codes(20_000, 20, 3, Law(), np.random.default_rng(0)) > 0
    assert (found.sum(1) == 3).all()
    np.testing.assert_allclose(found.mean(0), 3 / 20, atol=0.01)
    assert codes(10, 3, 3, Law(), np.random.default_rng(0)).all()  # of three features three


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_frequencies_fall_with_the_power_of_rank(exponent: float) -> None:
    found = drawn(Law(zipf=exponent)).mean(0)
    slope, _ = np.polyfit(np.log(np.arange(1, 21)), np.log(found), 1)
    assert slope == pytest.approx(-exponent, abs=0.02)
    assert found.sum() == pytest.approx(2, abs=0.02)


def test_two_of_a_pair_fire_together_as_asked_and_others_do_not() -> None:
    found = drawn(Law(correlation=0.6))
    together = np.corrcoef(found.T)
    wanted = np.kron(np.eye(10), [[1, 0.6], [0.6, 1]])
    np.testing.assert_allclose(together, wanted, atol=0.012)
    np.testing.assert_allclose(found.mean(0), 0.1, atol=0.005)


def test_a_pair_of_unequal_frequencies_is_correlated_as_far_as_these_allow() -> None:
    found = drawn(Law(zipf=1.0, correlation=1.0))
    np.testing.assert_allclose(found.mean(0), frequencies(20, 2, 1.0, 0.0), atol=0.005)
    assert not (found[:, 1::2] & ~found[:, ::2]).any()  # the rarer one never alone
    within = drawn(Law(zipf=1.0, correlation=0.3))
    for one in (2, 8, 18):  # where 0.3 is allowed it is 0.3
        assert np.corrcoef(within[:, one], within[:, one + 1])[0, 1] == pytest.approx(0.3, abs=0.02)


def test_a_child_never_fires_without_its_parent() -> None:
    for law in (Law(children=0.5), Law(children=0.6, zipf=0.5, correlation=0.4)):
        found = drawn(law)
        roots = 10 if law.children == 0.5 else 8
        for child in range(roots, 20):
            parent = (child - roots) % roots
            assert not (found[:, child] & ~found[:, parent]).any()
            assert found[:, child].sum() / found[:, parent].sum() == pytest.approx(0.5, abs=0.02)
        assert found.sum(1).mean() == pytest.approx(2, abs=0.02)


def test_ranks_are_given_to_features_at_random() -> None:
    law = Law(zipf=1.0)
    by_feature = (codes(50_000, 20, 2, law, np.random.default_rng(1)) > 0).mean(0)
    wanted = frequencies(20, 2, 1.0, 0.0)
    np.testing.assert_allclose(np.sort(by_feature)[::-1], wanted, atol=0.01)
    assert np.abs(by_feature - wanted).max() > 0.1
    other = (codes(50_000, 20, 2, law, np.random.default_rng(2)) > 0).mean(0)
    assert by_feature.argmax() != other.argmax()
