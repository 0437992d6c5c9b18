"""Which verdicts each shipped claim can reach, over all p and effects, and why it can reach no others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from moediff.claims.judging import judge
from moediff.claims.metrics import ORDERS
from moediff.claims.reading import read_claims
from moediff.claims.verdicts import (
    ABSENT,
    NOTHING_SEEN,
    OPPOSITE,
    OPPOSITE_SMALLER,
    SHOWN,
    SMALLER,
    UNDECIDED,
    VERDICTS,
)
from moediff.core.terms import KNOWN, NEAR
from workflow import ROOT

CLAIMS = read_claims(ROOT / "config/claims.yaml")
# Statistics that are the same when the two kinds exchange their names: half as many labellings.
UNORDERED = ("panel_either_variance", "exclusive_variance_excess")
PANELS = (
    "panel_moe_only_variance",
    "panel_dense_only_variance",
    "panel_either_variance",
    "panel_moe_only_loss",
)
# What cannot be said of a kind of claim, and why.
NO_PANEL = {NOTHING_SEEN: "effects are planted into panels alone"}
OF_NEARNESS = {
    SMALLER: "near a value is no direction, which an effect could have and be small",
    OPPOSITE_SMALLER: "the same",
    ABSENT: "within the least effect is what the claim says: it is shown then",
}
ONE_SIDED = {
    OPPOSITE: "all alpha lies on the claimed direction; half of it could show nothing with 4 + 4 models and "
    "three primary claims (3/70 is above 0.025)",
    OPPOSITE_SMALLER: "the same",
}
OUTSIDE_HOLM = ONE_SIDED | {
    SHOWN: "no primary claim, so that it has no p after Holm; with it there the others could not be shown",
    SMALLER: "the same",
}
# With 2 + 2 models the smallest p is 1/6.
TOO_FEW_MODELS = OUTSIDE_HOLM | {ABSENT: "a null that no outcome could reject has not been tried"}


def unreachable(claim: Mapping[str, Any], models: int) -> dict[str, str]:
    """The verdicts that a claim cannot have, with reasons."""
    if claim["metric"] not in PANELS:
        return NO_PANEL | _unreachable(claim, models)
    found = _unreachable(claim, models)
    return found | ({NOTHING_SEEN: found[ABSENT]} if ABSENT in found else {})


def _unreachable(claim: Mapping[str, Any], models: int) -> dict[str, str]:
    if claim["null"] == KNOWN:
        return OF_NEARNESS if claim["direction"] == NEAR else {}
    if models < 4:
        return TOO_FEW_MODELS
    return ONE_SIDED if claim["primary"] else OUTSIDE_HOLM


def outcomes(claim: Mapping[str, Any], labellings: int) -> Iterator[dict[str, Any]]:
    """Findings over a grid: effects and intervals in least effects, every p that the labellings allow."""
    least, reference = claim["minimum_effect"], claim["reference"] or 0.0
    sizes = itertools.product((-2, -0.5, 0, 0.5, 2), (None, 0.1, 0.6, 3))
    for effect, half in sizes:
        estimate = reference + effect * least
        finding: dict[str, Any] = {"estimate": estimate}
        if half is not None:
            finding["interval"] = [estimate - half * least, estimate + half * least]
        if claim["null"] == KNOWN:
            yield finding
            continue
        null = {"kind": claim["null"], "labellings": labellings - 1, "q50": reference}
        for place in range(1, labellings + 1):
            above, below = place / labellings, (labellings + 1 - place) / labellings
            if effect and (effect > 0) != (above < below):
                continue  # an estimate above the median of its null has the smaller p above
            p = {"above": above, "below": below, "smallest": 1 / labellings}
            finding |= {"null": null, "p": p}
            if claim["metric"] not in PANELS:
                yield finding
                continue
            for would in (least, 2 * least, None):
                yield finding | {"would_see": {"least": would, "unknown": "nothing planted"}}


def reached(name: str, models: int) -> dict[str, str]:
    """Every verdict that a claim has over the grid, with a reason that was given for it."""
    claim = CLAIMS["claims"][name]
    labellings = {2: 6, 4: 70}[models] // (1 + (claim["metric"] in UNORDERED))
    found = {}
    for finding in outcomes(claim, labellings):
        steps = ORDERS.get(claim["metric"])
        measured = {"steps": dict.fromkeys(steps, finding)} if steps else finding
        judged = judge(CLAIMS, {claim["metric"]: measured}, CLAIMS["primary"])["claims"]
        (row,) = (each for each in judged if each["id"] == name)
        found[row["verdict"]] = row["reason"]
    return found


@pytest.mark.parametrize("models", [4, 2])
@pytest.mark.parametrize("name", CLAIMS["claims"])
def test_a_claim_reaches_every_verdict_but_those_with_a_reason(name: str, models: int) -> None:
    assert set(VERDICTS) - set(reached(name, models)) == set(
        unreachable(CLAIMS["claims"][name], models)
    )


def test_claims_that_too_few_models_cannot_decide_say_so() -> None:
    for name, claim in CLAIMS["claims"].items():
        if claim["null"] != KNOWN:
            assert "could not be decided by this design" in reached(name, 2)[UNDECIDED]
