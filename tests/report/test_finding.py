"""The first sentence: which of several findings is the strongest, and its error rate."""

from __future__ import annotations

import pytest

from moediff.claims import verdicts
from moediff.report import finding

CLAIM = {
    "statement": "MoEs have more.", "metric": "moe_only_feature_share", "primary": False, "estimate": 0.0762,
    "interval": [0.05, 0.1], "reference": 0.039, "null": {"kind": "a known value"}, "reason": "the interval",
}  # fmt: skip
PAIR = {
    "comparison": "c", "member": "moe.0_dense.0", "recipe": "r", "seed": 0, "features": 2048,
    "sources": ["moe.0", "dense.0"],
    "classes": {"A-only": 117, "common": 1574, "B-only": 179, "tied": 117, "dead": 61},
    "fve": [{"source": "pooled", "mode": "threshold", "fve": 0.967, "l0": 11.98, "k": 12, "rows": 59_423,
             "baseline_pca": 0.742}],
}  # fmt: skip


def counted(*rates: dict, members: int = 1) -> dict:
    """The classes of the pair, of as many dictionaries of its comparison, and of one of another."""
    about = {"comparison": "c", "recipe": "r", "seed": 0}
    rows = [
        about | {"member": f"moe.{n}_dense.0", "class": name, "count": count}
        for n in range(members)
        for name, count in PAIR["classes"].items()
    ]
    other = about | {"comparison": "other", "member": "x.0_y.0", "class": "A-only", "count": 10**6}
    return {"error_rates": list(rates), "rows": [*rows, other]}


def claims(*changes: dict) -> list[dict]:
    return [CLAIM | change for change in changes]


def rate(control: str, recipe: str = "r", dictionaries: int = 1) -> dict:
    return {"recipe": recipe, "control": control, "exclusive": 0.05, "lowest": 0.04, "highest": 0.06,
            "dictionaries": dictionaries}  # fmt: skip


def judged(observed: float, others: int = 34, least: float = 0.029) -> dict:
    row = {"kind": "either kind", "statistic": "share", "observed": observed, "largest_other": 0.02,
           "others": others, "p": 0.03, "smallest_p": least, "interval": [0.005, 0.05]}  # fmt: skip
    return {"kinds": {"moe": [], "dense": []}, "judged": [row | {"kind": "moe", "p": 0.9}, row]}


def test_what_is_there_comes_before_absent_and_models_before_the_fit() -> None:
    absent = {"verdict": verdicts.ABSENT, "primary": True, "statement": "absent"}
    shown = {"verdict": verdicts.SHOWN, "statement": "shown"}
    fit = {
        "verdict": verdicts.SHOWN,
        "metric": "fve_pooled",
        "statement": "of the fit",
        "primary": True,
    }
    opposite = {"verdict": verdicts.OPPOSITE, "statement": "opposite"}
    small = {"verdict": verdicts.SMALLER, "statement": "small"}
    for rows, first in (
        ([fit, absent, opposite, shown], "Shown: shown Measured"),
        ([fit, absent, opposite], "The opposite was shown: opposite"),
        ([fit, absent, small], "There, but smaller than the claim asks for: small"),
        ([fit, absent], "Absent: absent"),
        ([fit], "Shown: of the fit"),
        ([shown, shown | {"primary": True, "statement": "primary"}], "Shown: primary"),
    ):
        assert finding.claim(claims(*rows), 0.05).sentence.startswith(first)
    undecided = [{"verdict": name} for name in ("undecided", "no verdict", "not measured")]
    assert finding.claim(claims(*undecided), 0.05) is None


def test_a_claim_says_its_numbers_its_reason_and_the_error_of_primary_ones() -> None:
    (one,) = claims({"verdict": verdicts.SHOWN, "primary": True,
                     "null": {"kind": "every other labelling of the panel"}})  # fmt: skip
    found = finding.claim([one], 0.05)
    assert found.sentence == (
        "Shown: MoEs have more. Measured: 0.0762 (95 % interval 0.05 to 0.1), against 0.039."
    )
    assert found.error == (
        "Held against every other labelling of the panel: the interval. The chance of any false primary "
        "claim is 5 % at most."
    )


def test_every_word_of_a_verdict_that_decides_has_its_sentence_and_its_rank() -> None:
    assert set(finding.SAID) == set(verdicts.VERDICTS) - {verdicts.UNDECIDED}


def test_a_claim_that_changed_after_its_numbers_is_said_to_be_exploratory() -> None:
    found = finding.claim(claims({"verdict": verdicts.SHOWN}), 0.05, "the claims changed")
    assert found.sentence.startswith("Exploratory. Shown: MoEs have more.")
    assert found.error.endswith(" Exploratory: the claims changed.")


def test_a_panel_is_held_against_its_other_labels() -> None:
    found = finding.panel([judged(0.01, others=2), judged(0.03)])
    assert found.sentence == (
        "Features of one kind alone (moe or dense) carry 3.00 % (95 % interval 0.50 % to 5.00 %) of the "
        "models' variance, more than under any of 34 other labels of the same models (2.00 % at most)."
    )
    assert found.error == "p 0.03; with so few models the smallest that there can be is 0.029."
    assert "not more than under any" in finding.panel([judged(0.01)]).sentence
    assert finding.panel([]) is None
    assert finding.panel([judged(0.01, least=0.333)], 0.05) is None


def test_classes_are_said_only_beside_their_error_rate() -> None:
    found = finding.classes(PAIR, counted(rate("rotated"), rate("other seed", dictionaries=3)))
    assert found.sentence == (
        "15.8 % of the features of moe and dense are one model's alone (117 only moe, 179 only dense; 1,574 "
        "are common)."
    )
    assert found.error == (
        "Error rate: between two seeds of one model, where nothing differs, the same rule calls 5.0 % so "
        "(4.0 % to 6.0 % in 3)."
    )
    assert "of a rotated copy" in finding.classes(PAIR, counted(rate("rotated"))).error
    other = counted(rate("other seed", recipe="other"), rate("permuted"))
    assert finding.classes(PAIR, other) is None
    assert finding.classes(None, counted()) is None


def test_classes_are_those_of_all_dictionaries_of_the_comparison_as_the_chart_has_them() -> None:
    found = finding.classes(PAIR, counted(rate("other seed"), members=3))
    assert found.sentence == (
        "15.8 % of the features of moe and dense are one model's alone (351 only moe, 537 only dense; "
        "4,722 are common in 3 dictionaries)."
    )


def test_without_controls_the_baseline_stands_beside_what_is_explained() -> None:
    found = finding.explained(PAIR, [PAIR])
    assert found.sentence == (
        "One dictionary explains 96.7 % of the variance of moe and dense with 12.0 of 2,048 features a "
        "row, on 59,423 rows that it was not fitted on; 12 principal components explain 74.2 %."
    )
    assert "not an error rate. No control of this recipe was run" in found.error
    alone = PAIR | {"member": "moe.0", "sources": ["moe.0"]}
    assert "No control" not in finding.explained(None, [alone]).error
    assert finding.explained(None, []) is None


@pytest.mark.parametrize(
    ("verdict", "panels", "rates", "says"),
    [
        (verdicts.ABSENT, [judged(0.0)], [rate("rotated")], "Absent"),
        ("no verdict", [judged(0.0)], [rate("rotated")], "Features of one kind alone"),
        ("no verdict", [], [rate("rotated")], "15.8 %"),
        ("no verdict", [judged(0.0, least=0.333)], [rate("rotated")], "15.8 %"),
        ("no verdict", [judged(0.0, least=0.333)], [], "Features of one kind alone"),
        ("no verdict", [], [], "One dictionary explains"),
    ],
)
def test_the_strongest_is_taken(verdict: str, panels: list, rates: list, says: str) -> None:
    study = {"claims": claims({"verdict": verdict}), "alpha": 0.05, "exploratory": None}
    found = finding.strongest(study, panels, [], counted(*rates), [PAIR], PAIR)
    assert found.sentence.startswith(says)


def divided(p: float, r2: float = 0.4, domain: str | None = "code") -> dict:
    row = {"p": p, "smallest_p": 1 / 35, "others": 34}
    return {
        "kinds": {"dense": [], "narrow": []},
        "judged": [
            row | {"statistic": "r2", "observed": r2},
            row | {"statistic": "total_variation", "observed": 0.2, "largest_other": 0.12},
        ],
        "by_domain": [
            {"kind": "dense", "domain": domain, "more": 0.15, "features": 6},
            {"kind": "narrow", "domain": domain, "more": 0.1, "features": 4},
            {"kind": "narrow", "domain": "docs", "more": 0.1, "features": 6},
        ],
    }


def test_kinds_that_differ_by_degree_say_how_much_and_on_what() -> None:
    found = finding.graded([divided(1 / 35)], 0.05)
    assert found.sentence == (
        "Models dense and narrow divide 20.0 % of what is explained in them differently among the same "
        "features; put into any other two groups of these sizes, the same models differ in 12.0 % at most. "
        "Of what dense gives more to some of them, 75.0 % goes to features that fire most on code, which "
        "are 62.5 % of all."
    )
    assert found.error.startswith(
        "p 0.0286, of all 35 ways to split these models in two; with so few"
    )
    assert "fire most on" not in finding.graded([divided(1 / 35, domain=None)], 0.05).sentence
    unknown = {"kinds": {"a": [], "b": []}, "unknown": "why"}
    assert finding.graded([divided(2 / 35), unknown], 0.05) is None
    assert finding.graded([unknown], 0.05) is None


def test_of_several_panels_p_is_multiplied_and_the_clearest_is_told() -> None:
    assert finding.graded([divided(1 / 35), divided(1 / 2)], 0.05) is None
    two = [divided(1 / 126, 0.3), divided(1 / 126, 0.5, "prose")]
    found = finding.graded(two, 0.05)
    assert "prose" in found.sentence
    assert found.error.startswith("p 0.0159, of all 35 ways")
    assert "times the 2 panels" in found.error
