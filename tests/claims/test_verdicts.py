"""Verdicts: when a claim is shown, there but small, opposite, absent or undecided."""

import pytest

from moediff.claims import verdicts
from moediff.claims.verdicts import (
    ABSENT,
    NO_VERDICT,
    OPPOSITE,
    OPPOSITE_SMALLER,
    SHOWN,
    SMALLER,
    UNDECIDED,
    PValue,
    Step,
    Verdict,
    verdict,
)
from moediff.core.errors import UserError
from moediff.core.terms import ABOVE, BELOW, EITHER_WAY, NEAR

SMALLEST = 1 / 924  # of 6 + 6 models


def step(effect: float, interval: list | None, above: float = 1.0, below: float = 1.0) -> Step:
    """An effect on a null of 1, with its interval and its p under other labellings."""
    moved = interval and [end + 1 for end in interval]
    tails = {"above": above, "below": below, "smallest": SMALLEST}
    return Step(1 + effect, moved, 1.0, tails)


def judged(
    steps: list[Step], direction: str, least: float = 2.0, opposite: bool = False, primary: int = 1
) -> Verdict:
    """The verdict of a claim beside so many primary claims, the others not measured; 0: it is none."""
    test = verdicts.p_value(steps, direction, opposite)
    if primary:
        test = verdicts.after_holm([test] + [None] * (primary - 1))[0]
    return verdict(steps, least, direction, test, opposite)


def test_holm_steps_down_and_never_falls() -> None:
    assert verdicts.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert verdicts.holm([0.5, 0.02]).tolist() == pytest.approx([0.5, 0.04])
    assert verdicts.holm([0.9, 0.8, 1.0]).tolist() == [1, 1, 1]
    assert verdicts.holm([]).tolist() == []
    with pytest.raises(UserError, match="not between 0 and 1"):
        verdicts.holm([0.0])


def test_an_effect_that_is_significant_and_too_small_is_there_and_not_absent() -> None:
    small = Step(0.009, [0.007, 0.0095], 0.0, {"above": 0.043, "below": 1.0, "smallest": 1 / 70})
    found = judged([small], ABOVE, 0.01)
    assert found == (SMALLER, "effect 0.009 against at least 0.01, p 0.043 after Holm")
    known = verdict([small._replace(tails=None)], 0.01, ABOVE)
    assert known.verdict == SMALLER
    outside = judged([small], ABOVE, 0.01, primary=0)
    assert outside.verdict == UNDECIDED  # nor there, without p after Holm
    assert outside.reason.endswith("p 0.043 outside Holm: not a primary claim")
    wide = judged([small._replace(interval=[-0.001, 0.02])], ABOVE, 0.01)
    assert wide.verdict == SMALLER
    assert wide.reason.endswith("the interval reaches further")


@pytest.mark.parametrize(
    ("effect", "interval", "direction", "above", "below", "wanted"),
    [
        (2.0, [1, 3], ABOVE, 0.04, 1.0, SHOWN),
        (2.0, [1, 3], ABOVE, 0.06, 1.0, UNDECIDED),
        (2.0, None, ABOVE, 0.05, 1.0, SHOWN),
        (0.9, [0.7, 3], ABOVE, 0.01, 1.0, SMALLER),
        (0.9, [0.7, 3], ABOVE, 0.06, 1.0, UNDECIDED),
        (0.0, [-0.8, 0.8], ABOVE, 0.5, 0.5, ABSENT),
        (0.0, [-2, 2], ABOVE, 0.5, 0.5, ABSENT),  # the edges are inside
        (0.0, [-2.1, 2], ABOVE, 0.5, 0.5, UNDECIDED),
        (0.0, None, ABOVE, 0.5, 0.5, UNDECIDED),
        (-0.5, [-0.8, 0.8], ABOVE, 1.0, 0.05, UNDECIDED),  # its null is rejected, the other way
        (-3.0, [-4, -2], ABOVE, 1.0, 0.001, UNDECIDED),  # which is not claimed
        (-3.0, [-4, -2], BELOW, 1.0, 0.02, SHOWN),
        (-1.0, [-1.5, -0.5], BELOW, 1.0, 0.02, SMALLER),
        (3.0, [2, 4], BELOW, 0.02, 1.0, UNDECIDED),
        (3.0, [2, 4], EITHER_WAY, 0.025, 1.0, SHOWN),  # half of alpha on each side
        (3.0, [2, 4], EITHER_WAY, 0.026, 1.0, UNDECIDED),
        (-3.0, [-4, -2], EITHER_WAY, 1.0, 0.025, SHOWN),
        (-1.0, [-1.5, -0.5], EITHER_WAY, 1.0, 0.025, SMALLER),
        (0.1, [-0.8, 0.8], EITHER_WAY, 0.4, 0.6, ABSENT),
    ],
)  # fmt: skip
def test_verdicts_against_other_labellings_with_effects_of_2(
    effect: float, interval: list, direction: str, above: float, below: float, wanted: str
) -> None:
    one = step(effect, interval, above, below)
    assert judged([one], direction).verdict == wanted
    withheld = verdict([one], 2.0, direction, withheld=["too few firings", "moving"])
    assert withheld == (NO_VERDICT, "too few firings; moving")


@pytest.mark.parametrize(
    ("effect", "above", "below", "wanted"),
    [
        (3.0, 0.025, 1.0, SHOWN),
        (3.0, 0.026, 1.0, UNDECIDED),
        (1.0, 0.025, 1.0, SMALLER),
        (-3.0, 1.0, 0.025, OPPOSITE),
        (-3.0, 1.0, 0.026, UNDECIDED),
        (-1.0, 1.0, 0.025, OPPOSITE_SMALLER),
    ],
)
def test_a_claim_that_may_be_opposite_shares_alpha_between_its_two_tails(
    effect: float, above: float, below: float, wanted: str
) -> None:
    one = step(effect, [effect - 1, effect + 1], above, below)
    assert judged([one], ABOVE, opposite=True).verdict == wanted


def test_false_findings_of_both_tails_together_are_no_more_than_alpha() -> None:
    """All 924 places that the true labels can have in a null without effects, one as likely as another."""
    wrong = {False: 0, True: 0}
    for place in range(1, 925):
        one = step(465 - place - 0.5, None, place / 924, (925 - place) / 924)
        for opposite in wrong:
            found = judged([one], ABOVE, 1e-9, opposite)
            wrong[opposite] += found.verdict in (SHOWN, OPPOSITE)
    assert 0.045 < wrong[False] / 924 <= 0.05
    assert 0.045 < wrong[True] / 924 <= 0.05


@pytest.mark.parametrize(
    ("estimate", "interval", "direction", "wanted"),
    [
        (3.0, [1.1, 5], ABOVE, SHOWN),
        (3.0, [0.9, 5], ABOVE, UNDECIDED),
        (2.9, [1.1, 5], ABOVE, SMALLER),
        (2.0, [1.1, 2.9], ABOVE, SMALLER),
        (1.5, [0.9, 2.9], ABOVE, ABSENT),
        (-1.0, [-3, 0.9], ABOVE, OPPOSITE),
        (0.5, [-3, 0.9], ABOVE, OPPOSITE_SMALLER),
        (-1.0, [-3, 0.9], BELOW, SHOWN),
        (3.0, [1.1, 5], BELOW, OPPOSITE),
        (3.0, [1.1, 5], EITHER_WAY, SHOWN),
        (-1.0, [-3, 0.9], EITHER_WAY, SHOWN),
        (2.0, [1.1, 2.9], EITHER_WAY, SMALLER),
        (1.5, [0.9, 2.9], EITHER_WAY, ABSENT),
        (3.0, None, ABOVE, UNDECIDED),
        (3.0, [-1.0, 3.0], NEAR, SHOWN),
        (2.0, [0, 3.5], NEAR, UNDECIDED),
        (4.0, [3.1, 5], NEAR, OPPOSITE),
        (-4.0, [-5, -1.1], NEAR, OPPOSITE),
        (1.0, None, NEAR, UNDECIDED),
    ],
)
def test_a_known_null_of_1_takes_the_interval_for_a_test(
    estimate: float, interval: list | None, direction: str, wanted: str
) -> None:
    assert verdict([Step(estimate, interval, 1.0)], 2.0, direction).verdict == wanted


def order(*steps: tuple[float, float]) -> list[Step]:
    """Steps of an order, each an effect and its p above, known to 0.5."""
    return [step(effect, [effect - 0.5, effect + 0.5], p, 1.001 - p) for effect, p in steps]


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        (order((3, 0.01), (3, 0.02), (3, 0.05)), SHOWN),
        (order((3, 0.01), (3, 0.02), (3, 0.06)), UNDECIDED),  # one step may not be there
        (order((3, 0.01), (3, 0.02), (1, 0.02)), SMALLER),
        (order((9, 0.001), (0, 0.5), (9, 0.001)), ABSENT),  # ends far apart, and no step between
        (order((9, 0.001), (-3, 1.0), (9, 0.001)), UNDECIDED),  # nor a step that goes back
        (order((-3, 1.0), (-3, 1.0)), UNDECIDED),
    ],
)
def test_an_order_is_judged_step_by_step(steps: list[Step], wanted: str) -> None:
    assert judged(steps, ABOVE).verdict == wanted
    turned = [
        step(-one.effect, [-end + 1 for end in reversed(one.interval)], *_turned(one))
        for one in steps
    ]
    assert judged(turned, BELOW).verdict == wanted


def _turned(one: Step) -> tuple[float, float]:
    return one.tails["below"], one.tails["above"]


def test_an_order_that_may_be_opposite_is_so_when_each_of_its_steps_is() -> None:
    back = order((-3, 1.0), (-4, 0.99))
    assert judged(back, ABOVE, opposite=True).verdict == OPPOSITE
    assert verdicts.p_value(back, ABOVE, True).p == pytest.approx(2 * 0.011)
    mixed = order((-3, 1.0), (4, 0.001))
    assert verdicts.p_value(mixed, ABOVE, True).p == 1
    assert judged(mixed, ABOVE, opposite=True).verdict == UNDECIDED
    assert verdicts.weakest(mixed, ABOVE) == mixed[0]
    assert verdicts.weakest(mixed, BELOW) == mixed[1]


def test_p_of_a_claim_is_of_the_side_that_it_claims() -> None:
    one = [step(3, None, 0.01, 0.99)]
    assert verdicts.p_value(one, ABOVE) == PValue(0.01, SMALLEST)
    assert verdicts.p_value(one, BELOW) == PValue(0.99, SMALLEST)
    for two in (
        verdicts.p_value(one, EITHER_WAY),
        verdicts.p_value(one, BELOW, True),
    ):
        assert two == PValue(0.02, 2 * SMALLEST)
    assert verdicts.p_value(one, NEAR) is None
    assert verdicts.p_value([Step(1.0, None, 1.0)], ABOVE) is None


def test_the_smallest_p_after_holm_is_with_the_other_claims_as_they_are() -> None:
    first, second, third = PValue(0.03, 0.01), PValue(0.02, 0.02), None
    found = verdicts.after_holm([first, second, third])
    assert found[0] == PValue(0.03, 0.01, pytest.approx(0.06), pytest.approx(0.03))
    assert found[1] == PValue(0.02, 0.02, pytest.approx(0.06), pytest.approx(0.06))
    assert found[2] is None


def test_what_a_design_could_not_decide_is_said_and_never_absent() -> None:
    one = Step(1.0, [0.9, 1.1], 1.0, {"above": 0.5, "below": 0.5, "smallest": 1 / 6})
    for primary in (0, 1):
        found = judged([one], ABOVE, primary=primary)
        assert found.verdict == UNDECIDED
        assert "could not be decided by this design: no p below 0.1667" in found.reason
    four = Step(9.0, None, 1.0, {"above": 1 / 70, "below": 1.0, "smallest": 1 / 70})
    assert judged([four], ABOVE, primary=3).verdict == SHOWN
    assert "could not be decided by this design: no p below 0.05714" in (
        judged([four], ABOVE, primary=4).reason
    )


def test_a_verdict_says_why() -> None:
    found = judged([step(2, [1, 3], 0.04)], ABOVE)
    assert found.reason == "effect 2 against at least 2, p 0.04 after Holm"
    assert verdict([step(2, [1, 3], 0.04)], 2.0, ABOVE, PValue(0.04, 0.01, 0.04), alpha=0.01) == (
        UNDECIDED, "effect 2 against at least 2, p 0.04 after Holm"
    )  # fmt: skip
    other = judged([step(-3, [-4, -2], 1.0, 0.001)], ABOVE)
    assert other.reason.endswith("; p 0.001 in the other direction, which is not claimed")
    with pytest.raises(UserError, match="unknown direction 'up'"):
        verdict([step(2, None)], 2.0, "up")
