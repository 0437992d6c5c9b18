"""Verdicts: when a claim is shown, opposite, absent or undecided."""

import pytest

from moediff.claims import verdicts
from moediff.claims.verdicts import (
    ABSENT,
    NO_VERDICT,
    OPPOSITE,
    SHOWN,
    UNDECIDED,
    verdict,
)
from moediff.core.errors import UserError
from moediff.core.terms import ABOVE, BELOW, NEAR


def test_holm_steps_down_and_never_falls() -> None:
    assert verdicts.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert verdicts.holm([0.5, 0.02]).tolist() == pytest.approx([0.5, 0.04])
    assert verdicts.holm([0.9, 0.8, 1.0]).tolist() == [1, 1, 1]
    assert verdicts.holm([]).tolist() == []
    with pytest.raises(UserError, match="not between 0 and 1"):
        verdicts.holm([0.0])


@pytest.mark.parametrize(
    ("estimate", "interval", "direction", "p", "against", "wanted"),
    [
        (3.0, [2, 4], ABOVE, 0.04, 1.0, SHOWN),
        (3.0, [2, 4], ABOVE, 0.06, 1.0, UNDECIDED),
        (3.0, [2, 4], ABOVE, None, None, UNDECIDED),
        (3.0, None, ABOVE, 0.05, 1.0, SHOWN),
        (1.9, [1.7, 4], ABOVE, 0.01, 1.0, UNDECIDED),  # less than the least effect
        (1.0, [0.2, 1.8], ABOVE, 0.01, 1.0, ABSENT),  # sure, and small
        (1.0, [-1, 3], ABOVE, 1.0, 1.0, ABSENT),  # the edges are inside
        (1.0, [-1.1, 3], ABOVE, 1.0, 1.0, UNDECIDED),
        (1.0, None, ABOVE, 1.0, 1.0, UNDECIDED),
        (-2.0, [-3, -1], ABOVE, 1.0, 0.02, OPPOSITE),
        (-2.0, [-3, -1], ABOVE, 1.0, 0.2, UNDECIDED),
        (-2.0, [-3, -1], BELOW, 0.02, 1.0, SHOWN),
        (3.0, [2, 4], BELOW, 1.0, 0.02, OPPOSITE),
        (3.0, [2, 4], BELOW, 0.02, 1.0, UNDECIDED),  # a p that belongs to the other side
        (2.0, [0, 2.5], NEAR, None, None, SHOWN),
        (2.0, [0, 3.5], NEAR, None, None, UNDECIDED),
        (4.0, [3.1, 5], NEAR, None, None, OPPOSITE),
        (-4.0, [-5, -1.1], NEAR, None, None, OPPOSITE),
        (1.0, None, NEAR, None, None, UNDECIDED),
    ],
)  # fmt: skip
def test_verdicts_about_a_null_of_1_with_effects_of_2(
    estimate: float, interval: list, direction: str, p: float, against: float, wanted: str
) -> None:
    given = (estimate, interval, 1.0, 2.0, direction, p, against)
    if wanted in (SHOWN, OPPOSITE) and direction != NEAR:
        assert abs(estimate - 1) >= 2
    assert verdict(*given).verdict == wanted
    withheld = verdict(*given, withheld=["too few firings", "moving"])
    assert withheld == (NO_VERDICT, "too few firings; moving")


@pytest.mark.parametrize(
    ("estimate", "interval", "direction", "wanted"),
    [
        (3.0, [1.1, 5], ABOVE, SHOWN),
        (3.0, [0.9, 5], ABOVE, UNDECIDED),
        (2.9, [1.1, 5], ABOVE, UNDECIDED),  # less than the least effect
        (2.0, [1.1, 2.9], ABOVE, ABSENT),
        (-1.0, [-3, 0.9], ABOVE, OPPOSITE),
        (-1.0, [-3, 0.9], BELOW, SHOWN),
        (3.0, [1.1, 5], BELOW, OPPOSITE),
        (3.0, None, ABOVE, UNDECIDED),
    ],
)
def test_a_known_null_of_1_takes_the_interval_for_a_test(
    estimate: float, interval: list | None, direction: str, wanted: str
) -> None:
    given = (estimate, interval, 1.0, 2.0, direction, None, None)
    assert verdict(*given, known=True).verdict == wanted
    if wanted in (SHOWN, OPPOSITE):
        assert verdict(*given).verdict == UNDECIDED  # there the labels are the test


def test_a_verdict_says_why() -> None:
    found = verdict(3.0, [2, 4], 1.0, 2.0, ABOVE, 0.04, 1.0)
    assert found.reason == "effect 2 against at least 2, p 0.04 after Holm"
    assert verdict(3.0, [2, 4], 1.0, 2.0, ABOVE, 0.04, 1.0, alpha=0.01).verdict == UNDECIDED
    assert "no p" in verdict(3.0, [2, 4], 1.0, 2.0, ABOVE, None, None).reason
    with pytest.raises(UserError, match="unknown direction 'up'"):
        verdict(3.0, [2, 4], 1.0, 2.0, "up", None, None)
