"""Claims judged: every verdict, and p after Holm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from claimed import CLAIMS, ROW, order, panel, permuted, read, verdicts
from moediff.claims.judging import judge
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.core.terms import LABELLINGS, PERMUTED


@pytest.fixture
def claims(tmp_path: Path) -> dict:
    return read(tmp_path, CLAIMS)


def test_every_verdict_and_p_after_holm(claims: dict, tmp_path: Path) -> None:
    findings = {
        "density_order_margin": order(
            permuted(0.1, [-0.2, 0.4], 0.3, 0.71), permuted(0.9, [0.8, 1], 1 / 70, 1.0)
        ),
        "log2_moe_only_over_dense_only": permuted(1.5, [1, 2], 1 / 70, 1.0),
        "panel_moe_only_variance": panel(0.09),
        "fve_pooled": {"estimate": 0.9, "interval": [0.88, 0.93], "seeds": {"within": 0.01}},
    }
    found = verdicts(claims, findings)
    assert found["level"]["beside"] == {"seeds": {"within": 0.01}}
    assert {name: row["verdict"] for name, row in found.items()} == {
        "margin": "absent", "fewer": "undecided", "panel": "shown", "level": "undecided",
        "second": "not measured", "gain": "not measured",
    }  # fmt: skip
    # Of an order the largest, 0.3; 1 and 1/70.
    assert found["panel"]["p_holm"] == pytest.approx(3 / 70)
    assert found["margin"]["p_holm"] == pytest.approx(0.6)
    assert found["fewer"]["p_holm"] == 1
    assert found["fewer"]["tails"] == {"above": 1 / 70, "below": 1.0, "smallest": 1 / 70}
    assert found["fewer"]["reason"].endswith(
        "p 0.01429 in the other direction, which is not claimed"
    )
    assert found["margin"]["p"] == 0.3
    assert found["margin"]["reason"].startswith(
        "of density_moe_only_over_common: the interval lies"
    )
    assert (found["margin"]["estimate"], found["margin"]["interval"]) == (0.1, [-0.2, 0.4])
    assert found["margin"]["beside"] == findings["density_order_margin"]
    assert found["panel"]["reference"] == pytest.approx(0.03)  # the median of the null
    assert found["panel"]["effect"] == pytest.approx(0.06)
    assert found["panel"]["null"]["kind"] == LABELLINGS
    assert found["panel"]["null"]["labellings"] == 69
    assert found["panel"]["reason"] == "effect 0.06 against at least 0.01, p 0.04286 after Holm"
    assert found["fewer"]["reference"] == 0
    assert found["level"]["p"] is None
    assert found["level"]["fidelity"] == "faithful"
    whole = judge(claims, findings, claims["primary"])
    artifact.write_json(tmp_path / "claims.json", whole)
    read = artifact.read_json(tmp_path / "claims.json")
    assert read == json.loads(json.dumps(whole)) | {"format": artifact.JSON_FORMAT}


def test_holm_counts_claims_that_were_not_measured(claims: dict) -> None:
    found = verdicts(claims, {"panel_moe_only_variance": panel(0.09)})
    assert found["panel"]["p_holm"] == pytest.approx(3 / 70)
    assert found["margin"]["verdict"] == "not measured"
    assert found["margin"]["p_holm"] is None


def test_an_effect_that_too_few_models_cannot_show_is_said_to_be_so(claims: dict) -> None:
    row = claims["claims"]["panel"]
    claims["claims"]["another"] = row | {"metric": "panel_dense_only_variance"}
    found = verdicts(claims, {"panel_moe_only_variance": panel(0.09)})["panel"]
    assert found["verdict"] == "undecided"
    assert "could not be decided by this design: no p below 0.05714" in found["reason"]


def test_the_effect_of_every_claim_is_the_estimate_less_the_median_of_its_null(
    claims: dict,
) -> None:
    away = permuted(-0.6, [-0.65, -0.55], 0.5, 0.51)
    away["null"] |= {"q50": -0.58}  # pairs of one kind show the same
    findings = {
        "density_order_margin": order(away, away),
        "log2_moe_only_over_dense_only": away | {"estimate": -1.0},
        "panel_moe_only_variance": panel(0.04, largest=0.1),
    }
    found = verdicts(claims, findings)
    for name, effect in (("margin", -0.02), ("fewer", -0.42), ("panel", -0.02)):
        row = found[name]
        assert row["effect"] == pytest.approx(effect)
        assert row["effect"] == row["estimate"] - row["null"]["q50"]
    assert found["margin"]["verdict"] == "absent"


def test_a_claim_against_null_is_not_shown_by_its_height(claims: dict) -> None:
    found = verdicts(claims, {"panel_moe_only_variance": panel(0.09, largest=0.2)})["panel"]
    assert found["verdict"] == "undecided"


def test_a_claim_outside_holm_can_be_absent_and_not_shown(claims: dict) -> None:
    metric = "panel_either_variance"
    found = verdicts(claims, {metric: panel(0.9)})["second"]
    assert found["verdict"] == "undecided"
    assert found["reason"].endswith("p 0.01429 outside Holm: not a primary claim")
    near = panel(0.03) | {"interval": [0.029, 0.031]}
    assert verdicts(claims, {metric: near})["second"]["verdict"] == "absent"


@pytest.mark.parametrize(
    ("direction", "opposite", "verdict"),
    [
        ("either", False, "shown"),
        ("above", False, "shown"),
        ("below", True, "opposite"),
        ("below", False, "undecided"),
    ],
)
def test_a_two_sided_claim_is_shown_or_opposite_by_half_of_alpha(
    tmp_path: Path, direction: str, opposite: bool, verdict: str
) -> None:
    metric = "log2_moe_only_over_dense_only"
    row = ROW | {"id": "both", "metric": metric, "direction": direction, "primary": True}
    claims = read(tmp_path, CLAIMS | {"claims": [row | {"opposite": opposite}]})
    found = verdicts(claims, {metric: permuted(1.5, [1, 2], 1 / 70, 1.0)})["both"]
    assert found["verdict"] == verdict
    if opposite or direction == "either":
        assert found["p_holm"] == pytest.approx(2 / 70)
        just = verdicts(claims, {metric: permuted(1.5, [1, 2], 2 / 70, 1.0)})["both"]
        assert just["verdict"] == "undecided"  # 4/70: one side alone would have shown it


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ([0.01, 0.03], "shown"),
        ([-0.001, 0.041], "undecided"),  # it reaches beyond the known value
        ([-0.03, -0.01], "opposite"),
        ([0.001, 0.009], "there, smaller than asked for"),
        ([-0.009, -0.001], "opposite, smaller than asked for"),
        ([-0.001, 0.009], "absent"),
        (None, "undecided"),
    ],
)
def test_a_claim_against_a_known_value_is_judged_by_its_interval(
    claims: dict, interval: list | None, verdict: str
) -> None:
    middle = 0.02 if interval is None else sum(interval) / 2
    finding = {"estimate": middle, "interval": interval}
    found = verdicts(claims, {"fve_gain_shared_penalty": finding})["gain"]
    assert found["verdict"] == verdict
    assert "Holm" not in found["reason"]


def test_absence_is_not_told_by_a_panel_that_was_never_seen_to_see(claims: dict) -> None:
    metric = "panel_either_variance"
    none = panel(0.03) | {"blind": "nothing shows that it would be seen"}
    found = verdicts(claims, {metric: none})["second"]
    assert found["verdict"] == "no verdict"
    assert found["reason"].endswith("but nothing shows that it would be seen")
    assert "blind" not in found["beside"]
    own = panel(0.2) | {"blind": "nothing shows that it would be seen"}
    shown = verdicts(claims, {"panel_moe_only_variance": own})["panel"]
    assert shown["verdict"] == "shown"  # what is seen needs no proof that it could be


@pytest.mark.parametrize(
    ("least", "verdict", "said"),
    [
        (0.05, "absent", "it would have seen 0.05 and more"),
        (0.9, "nothing seen", "but it would have seen 0.9 and more, not 0.5"),
        (None, "nothing seen", "but nothing was planted"),
    ],
)
def test_absent_is_said_of_what_would_have_been_seen_alone(
    claims: dict, least: float | None, verdict: str, said: str
) -> None:
    would = {"would_see": {"least": least, "unknown": "nothing was planted"}}
    found = verdicts(claims, {"panel_either_variance": panel(0.03) | would})["second"]
    assert found["verdict"] == verdict
    assert said in found["reason"]
    assert "would_see" not in found["beside"]
    shown = verdicts(claims, {"panel_moe_only_variance": panel(0.2) | would})["panel"]
    assert shown["verdict"] == "shown"


@pytest.mark.parametrize("where", ["all", "finding", "analysis", "null"])
def test_no_verdict_where_something_stands_against_it(claims: dict, where: str) -> None:
    metric, name = "panel_moe_only_variance", "panel"
    finding = panel(0.09)
    given: dict[str, Any] = {}
    if where == "all":
        given["withheld"] = ["too little was learned"]
    if where == "finding":
        finding["withheld"] = ["too little was learned"]
    if where == "analysis":
        given["analysis"] = claims["primary"] | {"k": 8, "layer": 0.25}
    if where == "null":
        finding["null"]["kind"] = PERMUTED
    found = verdicts(claims, {metric: finding}, **given)[name]
    assert found["verdict"] == "no verdict"
    assert found["estimate"] == 0.09
    assert {
        "all": "too little was learned",
        "finding": "too little was learned",
        "analysis": "not the primary analysis (k 8, not 4, layer 0.25, not 0.5)",
        "null": f"it was not measured against {LABELLINGS}",
    }[where] in found["reason"]
    if where == "null":
        assert found["p"] is None
    assert verdicts(claims, {metric: panel(0.09)})[name]["verdict"] == "shown"


@pytest.mark.parametrize(
    ("metric", "finding", "message"),
    [
        ("accuracy", {"estimate": 1.0}, "'accuracy' is not a metric"),
        ("fve_pooled", {"estimate": float("nan")}, "must be finite numbers"),
        ("fve_pooled", {"interval": [0, 1]}, "must be finite numbers"),
        ("fve_pooled", {"estimate": 1.0, "interval": [2.0, 1.0]}, "does not rise"),
        ("fve_pooled", {"estimate": 1.0, "null": {"kind": PERMUTED}}, "with a null goes p"),
        ("density_order_margin", {"estimate": 1.0}, "an order has the steps density_moe_only_over"),
        (
            "density_order_margin",
            order({"estimate": 1.0}, {"estimate": float("inf")}),
            "'density_common_over_dense_only': estimate and interval must be finite",
        ),
    ],
)
def test_findings_that_are_none_are_refused(
    claims: dict, metric: str, finding: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        judge(claims, {metric: finding}, claims["primary"])
