"""Findings: metrics of pairs by hand, the same whichever side comes first, and nulls of known answer."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from moediff.analysis.panel import EITHER, judge
from moediff.claims.findings import (
    CONTRASTS,
    LEVELS,
    Pair,
    pair_findings,
    pair_values,
    panel_findings,
    penalty_findings,
    sees_a_difference,
    sensitivity,
    side_modes,
)


def table(**classes: list[float]) -> pl.DataFrame:
    """Features of each class (A, common, B, tied) with these densities."""
    names = {
        "A": ("A-only", 0.03),
        "common": ("common", 0.5),
        "B": ("B-only", 0.95),
        "tied": ("tied", 0.5),
    }
    rows = [
        {"class": names[key][0], "density": density, "relative_norm": names[key][1],
         "decoder_cosine": {"A": 0.3, "common": -0.95, "B": 0.2, "tied": 0.0}[key],
         "top_domain_share": {"A": 0.8, "common": 0.5, "B": 0.6, "tied": 0.4}[key]}
        for key, densities in classes.items() for density in densities
    ]  # fmt: skip
    return pl.DataFrame(rows)


def pair(first: str, second: str, a: int = 3, b: int = 7, exclusive: float = 0.1) -> Pair:
    features = table(A=[0.1] * a, common=[0.01] * 10, B=[0.001] * b, tied=[0.5] * 5)
    return Pair((first, second), "default", 0.9, 0.88, features, exclusive, 1000)


def test_metrics_of_a_pair_by_hand() -> None:
    found = pair_values(pair("m0", "d0"))
    assert found["moe_only_feature_share"] == pytest.approx(3 / 20)
    assert found["fve_gain_last_quarter"] == pytest.approx(0.02)
    assert found["dense_only_feature_share"] == pytest.approx(7 / 20)
    assert found["common_feature_share"] == pytest.approx(0.5)
    assert found["log2_moe_only_over_dense_only"] == pytest.approx(math.log2(3.5 / 7.5))
    assert found["density_moe_only_over_common"] == pytest.approx(1)
    assert found["density_common_over_dense_only"] == pytest.approx(1)
    assert found["domain_share_moe_only_less_dense_only"] == pytest.approx(0.2)
    assert found["common_cosine_median"] == -0.95
    assert found["common_cosine_negative_share"] == 1
    assert found["relative_norm_side_modes"] == pytest.approx(0.3)
    assert set(found) >= {*LEVELS, *CONTRASTS}


def test_exchanging_the_sides_exchanges_their_classes() -> None:
    one = pair("m0", "d0")
    found, other = pair_values(one), pair_values(one.swapped())
    assert one.swapped().models == ("d0", "m0")
    assert other["moe_only_feature_share"] == found["dense_only_feature_share"]
    for metric in ("log2_moe_only_over_dense_only", "domain_share_moe_only_less_dense_only"):
        assert other[metric] == pytest.approx(-found[metric])
    assert other["density_moe_only_over_common"] == pytest.approx(-1)
    assert other["density_common_over_dense_only"] == pytest.approx(-1)
    assert other["relative_norm_side_modes"] == found["relative_norm_side_modes"]
    again = one.swapped().swapped().features
    assert again["class"].equals(one.features["class"])


def test_densities_that_go_both_ways_have_no_order() -> None:
    both = table(A=[0.1] * 3, common=[0.01] * 10, B=[0.1] * 7)  # A above common, and B too
    found = pair_values(Pair(("m0", "d0"), "default", 0.9, 0.88, both, 0.1, 1000))
    assert found["density_moe_only_over_common"] == pytest.approx(1)
    assert found["density_common_over_dense_only"] == pytest.approx(-1)


def test_an_order_is_its_steps_each_with_its_own_null() -> None:
    """The MoEs' own features are densest, and the common ones as dense as the dense models' own."""

    def made(one: str, two: str) -> Pair:
        own = {name: [0.1 if name in MOES else 0.01] * 3 for name in (one, two)}
        features = table(A=own[one], common=[0.01] * 10, B=own[two])
        return Pair((one, two), "default", 0.9, 0.88, features, 0.1, 1000)

    pairs = [made(*both) for both in itertools.combinations([*MOES, *DENSES], 2)]
    found = pair_findings(pairs, set(MOES))
    assert found["density_order_margin"].keys() == {"steps"}
    first, second = found["density_order_margin"]["steps"].values()
    assert first == found["density_moe_only_over_common"]
    assert (first["estimate"], first["p"]["above"]) == pytest.approx((1, 1 / 70))
    assert (second["estimate"], second["p"]["above"]) == pytest.approx((0, 1 / 70))
    # Two MoEs have steps of 1 and -1: what is there without kinds is in the median of the null.
    assert (first["null"]["q50"], second["null"]["q50"]) == pytest.approx((0.5, -0.5))


@pytest.mark.parametrize("models", [2, 4])
def test_a_share_of_0_in_every_model_has_the_bound_of_so_many_models(models: int) -> None:
    moes, denses = MOES[:models], DENSES
    pairs = [pair(one, two, a=0) for one, two in itertools.product(moes, denses)]
    found = pair_findings(pairs, set(moes))
    bound = 1 - 0.025 ** (1 / models)
    assert found["moe_only_feature_share"]["interval"] == pytest.approx([0, bound])
    assert found["moe_only_feature_share"]["estimate"] == 0
    assert found["dense_only_feature_share"]["interval"] == pytest.approx([7 / 17, 7 / 17])
    (one, *_) = pairs
    assert "interval" not in pair_findings([one], set(moes))["moe_only_feature_share"]


def test_an_empty_class_has_no_density() -> None:
    found = pair_values(pair("m0", "d0", a=0))
    assert math.isnan(found["density_moe_only_over_common"])
    assert found["moe_only_feature_share"] == 0
    other = pair_values(pair("m0", "d0", b=0))
    assert math.isnan(other["density_common_over_dense_only"])
    assert other["density_moe_only_over_common"] == pytest.approx(1)


def test_side_modes_are_seen_only_where_norms_are_trimodal() -> None:
    random = np.random.default_rng(0)
    middle = random.normal(0.5, 0.08, 4000).clip(0.25, 0.75)
    assert side_modes(middle) == 0
    assert side_modes(np.concatenate([middle, np.full(500, 0.01)])) == 0  # one side only
    three = np.concatenate([middle, np.full(500, 0.01), np.full(700, 0.99)])
    assert side_modes(three) == pytest.approx(500 / np.histogram(middle, 20, (0, 1))[0].max())
    flat = np.linspace(0, 1, 4001)
    assert side_modes(flat) < 0.02
    assert math.isnan(side_modes(np.array([])))
    two = np.concatenate([np.full(500, 0.01), np.full(500, 0.99)])
    assert side_modes(two) == 0  # no third mode between them
    low = np.concatenate([two, np.full(100, 0.5)])
    assert side_modes(low) == pytest.approx(0.2)  # the lowest of the three, here the middle one


MOES, DENSES = [f"moe.{n}" for n in range(4)], [f"dense.{n}" for n in range(4)]


def every_pair(a_of, exclusive=lambda first, second: 0.1) -> list[Pair]:
    """One dictionary of every two models; `a_of` gives the number of A's own features."""
    return [
        pair(one, two, *a_of(one, two), exclusive(one, two))
        for one, two in itertools.combinations([*MOES, *DENSES], 2)
    ]


def test_a_difference_of_kinds_stands_out_of_permuted_labels() -> None:
    def counts(one: str, two: str) -> tuple[int, int]:
        return (4, 40) if one in MOES and two in DENSES else (12, 12)

    found = pair_findings(every_pair(counts), set(MOES))
    contrast = found["log2_moe_only_over_dense_only"]
    assert contrast["estimate"] == pytest.approx(math.log2(4.5 / 40.5))
    assert contrast["p"]["below"] == pytest.approx(1 / 70)
    assert contrast["interval"][0] <= contrast["estimate"] <= contrast["interval"][1]
    assert "p" not in found["fve_pooled"]
    assert found["fve_pooled"]["estimate"] == pytest.approx(0.9)
    assert found["moe_only_feature_share"]["estimate"] == pytest.approx(4 / 54)


def test_the_order_of_a_dictionary_and_its_seeds_change_nothing() -> None:
    def counts(one: str, two: str) -> tuple[int, int]:
        return (4, 40) if one in MOES and two in DENSES else (12, 12)

    pairs = every_pair(
        counts, lambda one, two: 0.01 * (len(one) + int(one[-1]) * int(two[-1]) ** 2)
    )
    turned = [one.swapped() if n % 2 else one for n, one in enumerate(pairs)]
    wanted = pair_findings(pairs, set(MOES))
    for other in (turned, [*pairs, *pairs]):
        found = pair_findings(other, set(MOES))
        assert set(found) == set(wanted)
        for metric in (*LEVELS, *CONTRASTS, "exclusive_variance_excess"):
            finding = wanted[metric]
            assert found[metric]["estimate"] == pytest.approx(finding["estimate"])
            assert found[metric].get("p") == pytest.approx(finding.get("p")), metric


def test_more_variance_of_their_own_between_kinds_than_within() -> None:
    def more(one: str, two: str) -> float:
        return 0.3 if (one in MOES) != (two in MOES) else 0.1

    found = pair_findings(every_pair(lambda *_: (5, 5), more), set(MOES))
    excess = found["exclusive_variance_excess"]
    assert excess["estimate"] == pytest.approx(0.2)
    assert excess["p"]["above"] == pytest.approx(1 / 35)


def test_seeds_of_a_dictionary_are_averaged_and_their_variance_shown_apart() -> None:
    pairs = every_pair(lambda *_: (5, 5))
    again = [replace(one, fve=one.fve + 0.2) for one in pairs]
    found = pair_findings([*pairs, *again], set(MOES))["fve_pooled"]
    assert found["estimate"] == pytest.approx(1.0)
    assert found["variance"]["within"] == pytest.approx(0.02)
    assert found["variance"]["between"] == pytest.approx(0, abs=1e-12)


def test_one_pair_has_an_estimate_and_no_interval() -> None:
    found = pair_findings([pair("dense.0", "moe.0")], {"moe.0"})
    assert found["moe_only_feature_share"] == {"estimate": pytest.approx(7 / 20)}
    contrast = found["log2_moe_only_over_dense_only"]
    assert "interval" not in contrast
    assert contrast["p"]["smallest"] == 0.5  # A and B exchanged: no evidence either way
    assert "exclusive_variance_excess" not in found
    assert pair_findings([pair("dense.0", "dense.1")], {"moe.0"}) == {}
    assert pair_findings([], {"moe.0"}) == {}
    empty = pair_findings([pair("moe.0", "dense.0", a=0)], {"moe.0"})
    assert "density_order_margin" not in empty


def test_intervals_of_panels_are_averaged_as_their_shares_are() -> None:
    moes, panels = {"moe.0", "moe.1"}, [made_panel(0.2), made_panel(0.4)]
    for panel, interval in zip(panels, ([0.1, 0.3], [0.2, 0.6]), strict=True):
        intervals = {"moe": interval, "dense": None, EITHER: interval}
        panel["judged"] = judge(panel["groups"], panel["kinds"], intervals)
    found = panel_findings(panels, moes, "variance")
    assert found["panel_moe_only_variance"]["interval"] == pytest.approx([0.15, 0.45])
    assert "interval" not in found["panel_dense_only_variance"]
    assert found["panel_moe_only_variance"]["features"] == [1, 1]
    panels[0]["judged"] = judge(panels[0]["groups"], panels[0]["kinds"])
    found = panel_findings(panels, moes, "variance")
    assert "interval" not in found["panel_moe_only_variance"]  # nor of some alone


def made_panel(own: float) -> dict:
    """Two MoEs and two dense models; what the MoEs alone have is `own`, all else 0.01."""
    names = ["moe.0", "moe.1", "dense.0", "dense.1"]
    groups = [
        {"sources": list(side), "features": 1, "share": own if side == ("moe.0", "moe.1") else 0.01}
        for side in itertools.combinations(names, 2)
    ]
    kinds = {"dense": names[2:], "moe": names[:2]}
    return {"kinds": kinds, "groups": groups, "judged": judge(groups, kinds)}


def test_a_panel_is_judged_by_its_other_labels() -> None:
    moes = {"moe.0", "moe.1"}
    found = panel_findings([made_panel(0.2), made_panel(0.4)], moes, "variance")
    assert found["panel_moe_only_variance"]["estimate"] == pytest.approx(0.3)
    assert found["panel_moe_only_variance"]["p"]["above"] == pytest.approx(1 / 6)
    assert found["panel_dense_only_variance"]["estimate"] == pytest.approx(0.01)
    assert found["panel_either_variance"]["null"]["labellings"] == 2
    assert "interval" not in found["panel_moe_only_variance"]
    assert panel_findings([made_panel(0.2)], set(), "variance") == {}
    assert panel_findings([made_panel(0.2) | {"judged": []}], moes, "loss") == {}
    assert panel_findings([made_panel(0.2)], {"moe.0"}, "variance") == {}


def test_panels_agree_on_what_a_labelling_is() -> None:
    moes, one = {"moe.0", "moe.1"}, made_panel(0.2)
    groups = [row | {"share": 0.1 * n} for n, row in enumerate(one["groups"])]
    one |= {"groups": groups, "judged": judge(groups, one["kinds"])}
    turned = one | {"kinds": dict(reversed(one["kinds"].items()))}
    alone = panel_findings([one], moes, "variance")["panel_moe_only_variance"]
    both = panel_findings([one, turned], moes, "variance")["panel_moe_only_variance"]
    assert both["features"] == [1, 1]
    for part in ("p", "null"):
        assert (
            both[part] == pytest.approx(alone[part]) if part == "p" else both[part] == alone[part]
        )


def test_a_panel_says_the_least_planted_effect_that_its_rule_saw() -> None:
    def would_see(rows: list[dict], statistic: str = "variance") -> dict:
        found = panel_findings([made_panel(0.0)], {"moe.0", "moe.1"}, statistic, True, rows)
        return found[f"panel_moe_only_{statistic}"]["would_see"]

    def row(statistic: str, strength: float | None, least: float | None) -> dict:
        return {"statistic": statistic, "strength": strength, "least": least, "largest_tried": 0.03}

    rows = [row("r2", None, 0.001), row("exclusive", None, 0.01), row("exclusive", 4.0, 0.02)]
    assert would_see(rows)["least"] == 0.01
    unseen = would_see([row("exclusive", None, None)])
    assert unseen == {"least": None, "unknown": "not even a planted 0.03 was seen"}
    assert "no effects were planted" in would_see([])["unknown"]
    assert "not of loss" in would_see(rows, "loss")["unknown"]


def test_a_panel_that_sees_no_known_difference_may_be_blind() -> None:
    moes, panels = {"moe.0", "moe.1"}, [made_panel(0.0)]
    assert "blind" not in panel_findings(panels, moes, "variance")["panel_moe_only_variance"]
    found = panel_findings(panels, moes, "variance", sees=False)
    assert "known difference" in found["panel_moe_only_variance"]["blind"]
    assert sees_a_difference([made_panel(0.2)], ["moe"], 1 / 6)
    assert not sees_a_difference([made_panel(0.2)], ["moe"], 0.1)  # too few models for it
    assert not sees_a_difference(
        [made_panel(0.2)], ["dense"], 1 / 6
    )  # the side with nothing to find
    assert not sees_a_difference([], ["moe"], 0.5)


def test_recipes_are_compared_on_the_same_pairs() -> None:
    names = [("moe.0", "dense.0"), ("moe.1", "dense.0"), ("moe.0", "dense.1"), ("moe.1", "dense.1")]
    strong = [
        replace(pair(*both), recipe="paper", fve=0.9 + 0.01 * n) for n, both in enumerate(names)
    ]
    weak = [replace(pair(*both), recipe="weak", fve=0.8) for both in reversed(names)]
    found = penalty_findings(strong, weak, {"moe.0", "moe.1"})
    assert found["fve_gain_shared_penalty"]["estimate"] == pytest.approx(0.115)
    low, high = found["fve_gain_shared_penalty"]["interval"]
    assert low < 0.115 < high
    assert found["tied_cosine_lowest"] == {"estimate": 0.0, "interval": [0.0, 0.0]}
    turned = [one.swapped() for one in strong]
    again = penalty_findings([*turned, *strong], weak, {"moe.0", "moe.1"})
    assert again["fve_gain_shared_penalty"]["estimate"] == pytest.approx(0.115)
    other = replace(strong[0], fve=strong[0].fve + 0.04)
    seeds = penalty_findings([strong[0], other], weak, {"moe.0", "moe.1"})
    assert seeds["fve_gain_shared_penalty"]["estimate"] == pytest.approx(0.12)
    assert "fve_gain_shared_penalty" not in penalty_findings(strong, [], {"moe.0", "moe.1"})
    assert penalty_findings([], weak, {"moe.0", "moe.1"}) == {}
    null = [replace(one, models=("dense.0", "dense.1")) for one in strong[:1]]
    assert "fve_gain_shared_penalty" not in penalty_findings(null, null, {"moe.0"})


def test_sensitivity_has_a_row_for_every_recipe_and_two_models() -> None:
    pairs = [pair("moe.0", "dense.0", a=2), pair("moe.1", "dense.0", a=4), pair("dense.0", "dense.1"),
             replace(pair("moe.0", "dense.0", a=0), recipe="wide")]  # fmt: skip
    table = sensitivity(pairs, 5)
    rows = {(row["recipe"], row["A"], row["B"]): row for row in table if row["firings"] == 0}
    often = [row for row in table if row["firings"] == 5]
    assert len(often) == len(rows) == 3
    assert all(
        row["dense_only_feature_share"] == 0 for row in often
    )  # they fire on one row of 1,000
    assert often[0]["common_feature_share"] == pytest.approx((10 / 12 + 10 / 14) / 2)
    assert often[0]["fve_pooled"] == rows["default", "moe", "dense"]["fve_pooled"]
    assert set(rows) == {
        ("default", "moe", "dense"), ("default", "dense", "dense"), ("wide", "moe", "dense")
    }  # fmt: skip
    assert rows["default", "moe", "dense"]["pairs"] == 2
    assert rows["default", "moe", "dense"]["moe_only_feature_share"] == pytest.approx(
        (2 / 19 + 4 / 21) / 2
    )
    assert rows["wide", "moe", "dense"]["density_moe_only_over_common"] is None
    assert rows["wide", "moe", "dense"]["moe_only_feature_share"] == 0
