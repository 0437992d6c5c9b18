"""What an MoE's experts say of claims: each metric by hand, and their interval over seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from claimed import SHIPPED
from moediff.claims import judging
from moediff.claims.expert_findings import expert_findings, expert_values, loss
from moediff.claims.metrics import OF_EXPERTS
from moediff.claims.reading import EXPERTS, read_claims


def lens(cosines: dict[tuple[str, int, str], list[float]]) -> pl.DataFrame:
    """By term, experts and stream, one a layer; `cosine_layer` is a tenth less."""
    rows = [
        {"layer": layer, "term": term, "experts": experts, "stream": stream, "weights": weights,
         "domain": domain, "cosine": cosine + more, "cosine_layer": cosine + more - 0.1}
        for (term, experts, stream), found in cosines.items()
        for layer, cosine in enumerate(found)
        # What no claim reads is larger.
        for weights, domain, more in (
            ("routed", "all", 0), ("renormalised", "all", 0.5), ("routed", "code", 0.5),
        )
    ]  # fmt: skip
    return pl.DataFrame(rows)


def fewer(cost: dict[int, float]) -> pl.DataFrame:
    """Costs by experts a token, of a model that loses 4 nats with all."""
    named = ({"kind": "keep", "weights": "routed", "layer": None, "domain": "all"},
             {"kind": "keep", "weights": "renormalised", "layer": None, "domain": "all"},
             {"kind": "second", "weights": "routed", "layer": None, "domain": "all"},
             {"kind": "keep", "weights": "routed", "layer": 1, "domain": "all"},
             {"kind": "keep", "weights": "routed", "layer": None, "domain": "code"})  # fmt: skip
    rows = [
        names | {"k": k, "cost": nats + 9 * number, "cross_entropy": 4 + nats + 9 * number}
        for k, nats in cost.items()
        for number, names in enumerate(named)
    ]
    return pl.DataFrame(rows, schema_overrides={"layer": pl.Int64})


def routing(experts: int = 10) -> dict[str, Any]:
    rows = [
        {"layer": layer, "domain": domain, "busiest_share": share, "experts_for_half_of_slots": half}
        for layer, domain, share, half in (
            (0, "all", 0.99, 1), (0, "code", 0.3, 3), (0, "prose", 0.4, 5),
            (1, "all", 0.99, 1), (1, "code", 0.6, 2), (1, "prose", 0.2, 4),
        )
    ]  # fmt: skip
    information = [
        {"layer": layer, "of": of, "corrected": nats}
        for layer, of, nats in ((0, "domain", 9.0), (0, "domain within token", 0.02),
                                (1, "token", 9.0), (1, "domain within token", 0.04))
    ]  # fmt: skip
    return {"experts": experts, "rows": rows, "information": information}


COSINES = {
    ("heaviest", 1, "none"): [0.5, 0.7],
    ("heaviest", 1, "stream"): [0.8, 0.6],
    ("heaviest", 2, "stream"): [0.9, 0.9],
    ("random chosen", 1, "none"): [0.2, 0.6],
    ("random chosen", 1, "stream"): [0.1, 0.1],
}
COST = {6: 0.0, 5: 0.01, 4: 0.02, 3: 0.08, 2: 0.16, 1: 0.5}


def test_every_metric_is_the_one_that_its_words_say() -> None:
    found = expert_values(lens(COSINES), fewer(COST), routing())
    assert found == pytest.approx(
        {
            "one_expert_cost": 0.5,
            "cost_fall_an_expert": (2 * math.log(2) + math.log(4)) / 3,
            "top1_cosine_with_stream": 0.8,
            "top1_cosine_with_layer": 0.7,
            "top1_cosine_over_chosen": 0.2,
            "busiest_expert_tokens": 0.6,
            "experts_for_half_of_slots": 0.35,
            "domain_information_within_token": 0.03,
        }
    )
    assert list(found) == list(OF_EXPERTS)
    assert loss(fewer(COST)) == 4


@pytest.mark.parametrize("cost", [{2: 0, 1: 0.1}, {3: 0, 2: 0.1, 1: 0.3}, COST | {4: -0.01}])
def test_a_fall_needs_two_costs_above_nothing(cost: dict[int, float]) -> None:
    found = expert_values(lens(COSINES), fewer(cost), routing())
    assert math.isnan(found["cost_fall_an_expert"])
    assert "cost_fall_an_expert" not in expert_findings([found, found])


def test_what_was_not_stored_has_no_value() -> None:
    none = {"experts": 10, "rows": [], "information": []}
    found = expert_values(lens(COSINES), fewer(COST), none)
    missing = {name for name, value in found.items() if math.isnan(value)}
    assert missing == {
        "busiest_expert_tokens", "experts_for_half_of_slots", "domain_information_within_token",
    }  # fmt: skip


def test_the_interval_is_student_s_over_seeds() -> None:
    seeds = [{"one_expert_cost": value} for value in (1.0, 2.0, 3.0, 6.0)]
    (found,) = expert_findings(seeds).values()
    half = 3.182446 * np.std([1, 2, 3, 6], ddof=1) / 2  # t of three degrees of freedom
    assert found["estimate"] == 3
    assert found["interval"] == pytest.approx([3 - half, 3 + half])
    assert found["by_seed"] == [1, 2, 3, 6]
    assert "interval" not in expert_findings(seeds[:1])["one_expert_cost"]
    assert expert_findings([]) == {}


def test_the_authors_own_files_fit_the_claims_read_off_them_and_not_the_abstract() -> None:
    """Mean log ratios of six domains, and of steps after two experts, from their samples."""
    claims = read_claims(SHIPPED, EXPERTS)
    logs = [math.log(ratio) for ratio in (1.381, 2.164, 1.319, 1.688, 1.635, 1.619)]
    mean = float(np.mean(logs))
    findings = {
        "one_expert_cost": {"estimate": mean, "interval": [mean - 0.15, mean + 0.15]},
        "cost_fall_an_expert": {"estimate": 1.1, "interval": [1.0, 1.2]},
        "top1_cosine_with_stream": {"estimate": 0.987, "interval": [0.98, 0.995]},
        "top1_cosine_with_layer": {"estimate": 0.955, "interval": [0.95, 0.96]},
    }
    judged = judging.judge(claims | {"primary": {"moe": "moe"}}, findings, {"moe": "moe"})
    found = {row["id"]: row["verdict"] for row in judged["claims"]}
    assert {name: found[name] for name in found if found[name] != "not measured"} == {
        "one_expert_by_its_abstract": "opposite",
        "one_expert_by_its_files": "shown",
        "cost_falls_threefold": "shown",
        "heaviest_like_all": "shown",
        "heaviest_like_layer": "shown",
    }
    assert judged["withheld"] == []


def test_an_moe_that_is_as_weak_as_n_grams_has_no_verdict() -> None:
    limits = read_claims(SHIPPED, EXPERTS)["limits"]
    assert judging.weak_models(limits, {"moe/seed-0": 4.0}, 4.2) == []
    (why,) = judging.weak_models(limits, {"moe/seed-0": 4.0, "moe/seed-1": 4.15}, 4.2)
    assert "moe/seed-1" in why
    assert "moe/seed-0" not in why
    for losses, trigram in (({}, 4.2), ({"moe/seed-0": 4.0}, None)):
        assert judging.weak_models(limits, losses, trigram) == [
            "it is not known whether the models beat n-grams"
        ]
