"""Claims read and judged: the shipped file, one line for each way to be wrong, every verdict."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from moediff.claims.judging import judge, reasons_to_withhold
from moediff.claims.metrics import METRICS, ORDERS
from moediff.claims.reading import penalties_fault, read_claims
from moediff.core import artifact
from moediff.core.errors import ConfigError, UserError
from moediff.core.resampling import relabelled
from moediff.core.terms import KNOWN, LABELLINGS, PERMUTED
from workflow import ROOT

SHIPPED = ROOT / "config" / "claims.yaml"
ROW = {
    "paper": "2603.05805", "statement": "It is so.", "contrast": "one against the other",
    "null": PERMUTED, "direction": "above", "minimum_effect": 0.5, "fidelity": "faithful",
}  # fmt: skip
CLAIMS = {
    "alpha": 0.05,
    "primary": {
        "moe": "moe", "dense": "dense", "hook": "resid_post", "layer": 0.5, "recipe": "default",
        "features": 64, "k": 4, "bounds": [0.3, 0.7], "user_floor": 0.2,
    },
    "penalties": {"strong": "paper", "weak": "paper-weak"},
    "limits": {
        "nats_over_trigram": 0.1, "firings_per_feature": 100, "moved": 0.1, "rotated": 0.05,
        "permuted": 0.95,
    },
    "claims": [
        ROW | {"id": "margin", "metric": "density_order_margin", "primary": True},
        ROW | {"id": "fewer", "metric": "log2_moe_only_over_dense_only", "direction": "below",
               "primary": True},
        ROW | {"id": "panel", "metric": "panel_moe_only_variance", "null": LABELLINGS,
               "primary": True, "minimum_effect": 0.01},
        ROW | {"id": "level", "metric": "fve_pooled", "null": KNOWN, "direction": "near",
               "reference": 0.87, "minimum_effect": 0.05},
        ROW | {"id": "second", "metric": "panel_either_variance", "null": LABELLINGS},
        ROW | {"id": "gain", "metric": "fve_gain_shared_penalty", "null": KNOWN, "reference": 0,
               "minimum_effect": 0.01},
    ],
}  # fmt: skip


def read(folder: Path, claims: Any) -> dict:
    path = folder / "claims.yaml"
    path.write_text(claims if isinstance(claims, str) else yaml.safe_dump(claims), encoding="utf-8")
    return read_claims(path)


@pytest.fixture
def claims(tmp_path: Path) -> dict:
    return read(tmp_path, CLAIMS)


def permuted(estimate: float, interval: list, above: float, below: float) -> dict:
    """A finding of pairs, its null symmetric about 0."""
    return {
        "estimate": estimate,
        "interval": interval,
        "p": {"above": above, "below": below, "smallest": 1 / 70},
        "null": {"kind": PERMUTED, "labellings": 69, "q05": -1.0, "q50": 0.0, "q95": 1.0},
    }


def order(first: dict, second: dict) -> dict:
    """A finding of the order of three densities."""
    return {"steps": dict(zip(ORDERS["density_order_margin"], (first, second), strict=True))}


def panel(true: float, largest: float = 0.04) -> dict:
    """A finding of a panel of 4 + 4 models, its null from 0.02 to `largest`."""
    return relabelled([true, *np.linspace(0.02, largest, 69)], LABELLINGS) | {
        "interval": [true - 0.01, true + 0.01]
    }


def verdicts(claims: dict, findings: dict, **given: Any) -> dict:
    found = judge(claims, findings, given.pop("analysis", claims["primary"]), **given)
    return {row["id"]: row for row in found["claims"]}


# --- reading ---------------------------------------------------------------------------------


def test_the_shipped_claims_are_whole() -> None:
    claims = read_claims(SHIPPED)
    rows = claims["claims"].values()
    assert {row["metric"] for row in rows} == set(METRICS)
    assert {row["null"] for row in rows} == {KNOWN, PERMUTED, LABELLINGS}
    primary = [row for row in rows if row["primary"]]
    # With 4 + 4 models no p is below 1 in 70: with more primary claims none could be shown.
    assert len(primary) / 70 <= claims["alpha"] < (len(primary) + 1) / 70
    wanted = {
        "fve_pooled": ("near", 0.87, 0.05), "log2_moe_only_over_dense_only": ("below", None, 1),
        "density_order_margin": ("above", None, 0.1), "relative_norm_side_modes": ("near", 0, 0.1),
        "common_cosine_median": ("near", 0, 0.1), "tied_cosine_lowest": ("near", 1, 1e-6),
        "panel_moe_only_variance": ("above", None, 0.01),
    }  # fmt: skip
    found = {
        row["metric"]: (row["direction"], row["reference"], row["minimum_effect"]) for row in rows
    }
    assert wanted.items() <= found.items()


def test_every_minimum_effect_of_the_shipped_claims_is_argued() -> None:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    effects = [line for line in lines if line.startswith("    minimum_effect:")]
    assert len(effects) == sum(line.startswith("  - id:") for line in lines)
    assert all("# " in line for line in effects)


def test_the_papers_own_counts_and_densities_fit_the_shipped_claims() -> None:
    """910, 18,940 and 3,226 features at 0.87 are what the paper found, so they must be shown."""
    claims = read_claims(SHIPPED)
    counts = {"moe_only_feature_share": 910, "common_feature_share": 18_940,
              "dense_only_feature_share": 3226}  # fmt: skip
    findings = {
        name: {"estimate": n / 23_076, "interval": [n / 23_076 - 0.01, n / 23_076 + 0.01]}
        for name, n in counts.items()
    }
    fewer = float(np.log2(910.5 / 3226.5))
    findings |= {
        "fve_pooled": {"estimate": 0.87, "interval": [0.86, 0.88]},
        "tied_cosine_lowest": {"estimate": 1.0, "interval": [1.0, 1.0]},
        "log2_moe_only_over_dense_only": permuted(fewer, [fewer - 1, fewer + 1], 1.0, 1 / 70),
    }
    found = verdicts(claims, findings)
    shown = {row["metric"] for row in found.values() if row["verdict"] == "shown"}
    assert shown == set(findings)


def test_a_column_called_null_needs_no_quotes(tmp_path: Path) -> None:
    text = yaml.safe_dump(CLAIMS).replace("'null':", "null:")
    assert yaml.safe_load(text)["claims"][0][None] == PERMUTED
    assert read(tmp_path, text)["claims"]["margin"]["null"] == PERMUTED


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("metric", "accuracy", "claims.margin.metric: 'accuracy' is not one of"),
        ("direction", "up", "claims.margin.direction: 'up' is not one of"),
        ("fidelity", "exact", "claims.margin.fidelity: 'exact' is not one of"),
        ("null", "shuffled", "claims.margin.null: 'shuffled' is not one of"),
        ("minimum_effect", 0, "claims.margin.minimum_effect: 0 is less than or equal to"),
        ("minimum_effect", "5e-4", "claims.margin.minimum_effect: '5e-4' is text to YAML"),
        ("minimum_effect", float("nan"), "claims.margin.minimum_effect: nan is not a finite"),
        ("statement", None, "claims.margin: the key 'statement' is missing"),
        ("source", "x", "claims.margin: unknown key 'source'"),
        ("id", "fewer", "claims: the id 'fewer' stands twice"),
        ("id", None, "claims: row 1 has no id"),
        ("direction", "near", "claims.margin.null: a claim that is near a value"),
        ("direction", "either", "claims.margin.direction: density_order_margin is an order"),
        ("reference", 0, "claims.margin.reference: that of null 'labels of models permuted over"),
        ("opposite", "yes", "claims.margin.opposite: 'yes' is"),
        ("null", KNOWN, "claims.margin.primary: null 'a known value' gives no p"),
        (
            "null",
            LABELLINGS,
            "claims.margin.null: 'every other labelling of the panel' does not go",
        ),
    ],
)
def test_a_row_that_is_wrong_is_refused_in_one_line(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    wrong = copy.deepcopy(CLAIMS)
    if value is None:
        del wrong["claims"][0][key]
    else:
        wrong["claims"][0][key] = value
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, wrong)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "claims.yaml"))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_wrong_is_refused_in_one_line(tmp_path: Path) -> None:
    unreferenced = copy.deepcopy(CLAIMS)
    del unreferenced["claims"][3]["reference"]
    without = {key: value for key, value in CLAIMS.items() if key != "limits"}
    falling, alike, both = (copy.deepcopy(CLAIMS) for _ in range(3))
    both["claims"][3]["opposite"] = True
    falling["primary"]["bounds"] = [0.7, 0.3]
    alike["primary"]["dense"] = "moe"
    for claims, message in (
        (falling, r"primary\.bounds: \[0\.7, 0\.3\] do not rise"),
        (alike, r"primary\.dense: the same model as primary\.moe"),
        ("claims: {a: 1}", "must be a list"),
        ("a: [", "cannot be read as YAML"),
        (unreferenced, "claims.level.reference: the key is missing"),
        (both, "claims.level.opposite: of above or below against other labellings alone"),
        (without, "the key 'limits' is missing"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(tmp_path, claims)
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read"):
        read_claims(tmp_path / "nothing.yaml")


def test_the_digest_is_of_what_the_file_says(tmp_path: Path) -> None:
    text = yaml.safe_dump(CLAIMS)
    digest = read(tmp_path, text)["digest"]
    assert read(tmp_path, "# a comment\n" + text)["digest"] == digest
    assert read(tmp_path, yaml.safe_dump(CLAIMS, sort_keys=False))["digest"] == digest
    changed = copy.deepcopy(CLAIMS)
    changed["claims"][0]["minimum_effect"] = 0.4
    assert read(tmp_path, changed)["digest"] != digest


# --- judging ---------------------------------------------------------------------------------


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


# --- reasons to withhold ---------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "losses": {"moe": 4.0, "dense": 4.1},
    "trigram": 4.3,
    "firings": {"panel": {"live": 100.0}},
    "counts": {"pair": ({"A-only": 450, "common": 10}, {"A-only": 500, "common": 16})},
    "controls": {"rotated": 0.05, "permuted": 0.95, "other seed": 0.3},
}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, []),
        (
            {"trigram": 4.19},
            ["models do not beat the trigram by more than 0.1 nats a token (dense)"],
        ),
        ({"trigram": None}, ["it is not known whether the models beat n-grams"]),
        ({"losses": {}}, ["it is not known whether the models beat n-grams"]),
        (
            {"firings": {"pair": {"A-only": 900, "common": 99.5}, "panel": {"live": 120}}},
            ["fewer than 100 firings of the median feature of a class: pair (common 99.5)"],
        ),
        ({"firings": {}}, ["firings a feature are not known"]),
        (
            {"counts": {"pair": ({"A-only": 449}, {"A-only": 500})}},
            ["class counts still move in the last quarter of fitting: pair (A-only 449 to 500)"],
        ),
        (
            {"counts": {"pair": ({"A-only": 25}, {"A-only": 14})}},
            ["class counts still move in the last quarter of fitting: pair (A-only 25 to 14)"],
        ),
        (
            {"counts": {"pair": ({"A-only": 5}, {})}},
            ["class counts still move in the last quarter of fitting: pair (A-only 5 to 0)"],
        ),
        ({"counts": {}}, ["class counts after 75 % of fitting are not known"]),
        (
            {"controls": {"rotated": 0.0, "permuted": 0.75}},
            ["of the control 'permuted' 75.0 % are exclusive, not at least 95 %"],
        ),
        (
            {"controls": {"rotated": 0.06}},
            [
                "of the control 'rotated' 6.0 % are exclusive, not at most 5 %",
                "the control 'permuted' was not run",
            ],
        ),
    ],
)
def test_reasons_to_withhold_a_verdict(change: dict, wanted: list) -> None:
    limits = CLAIMS["limits"]
    assert reasons_to_withhold(limits, **GOOD | change) == wanted


def test_penalties_are_compared_only_where_nothing_else_differs() -> None:
    strong = {"preset": "paper", "k": 16, "penalties": {"l1": {"weight": 0.03, "tied": 0.7}}}
    weak = strong | {"penalties": {"l1": {"weight": 0.03, "tied": 0.15}}}
    assert penalties_fault(strong, weak) == ""
    assert penalties_fault(strong, None) == ""
    faults = [
        (weak, strong),
        (strong, weak | {"k": 8}),
        (strong, strong | {"penalties": {"l1": {"weight": 0.02, "tied": 0.15}}}),
        (strong, strong | {"penalties": {}}),
    ]
    for pair in faults:
        assert "ratio of penalties alone" in penalties_fault(*pair)
