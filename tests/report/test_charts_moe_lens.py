"""Charts of MoE Lens: titles say what the tables show, scales have their middle where routing is even."""

from __future__ import annotations

import polars as pl
import pytest

from charted import SIZE, data_with, drawn, title_of
from moediff.core.terms import ALL
from moediff.report.charts.moe_lens import (
    expert_cosine_chart,
    fewer_experts_chart,
    pruning_chart,
    specialisation_chart,
)


def test_the_even_share_is_in_the_middle_of_the_scale() -> None:
    shares = pl.DataFrame(
        {"layer": [0, 0, 1, 1] * 2, "domain": [ALL] * 4 + ["code"] * 4, "expert": [0, 1] * 4,
         "share": [0.5, 0.5, 0.4, 0.6, 0.1, 0.9, 0.5, 0.5]}
    )  # fmt: skip
    chart = drawn(specialisation_chart(shares, 0.5, "moe.0", SIZE))
    assert title_of(chart) == (
        "The busiest expert of moe.0, 1 of layer 0, is used by 90 % of tokens (code); even would be 50 %"
    )
    scale = chart["spec"]["encoding"]["color"]["scale"]
    assert scale["domain"] == [0, 0.5, 1.0]
    assert data_with(chart, "share")["times"].to_list() == pytest.approx(
        (shares["share"] / 0.5).to_list()
    )


def test_the_title_has_the_cosine_with_and_without_the_stream() -> None:
    rows = [
        {"layer": layer, "domain": ALL, "term": term, "experts": 1, "stream": stream, "weights": weights,
         "cosine": cosine, "tokens": 9}
        for layer, shift in ((0, 0.0), (1, 0.1))
        for weights in ("routed", "renormalised")
        for term, stream, cosine in (
            ("heaviest", "none", 0.6 + shift), ("heaviest", "stream", 0.8 + shift),
            ("second", "none", 0.2), ("random unchosen", "none", 0.0),
        )
    ]  # fmt: skip
    more = [rows[0] | {"domain": "code"}, rows[0] | {"experts": 2}, rows[0] | {"term": "nothing"}]
    chart = drawn(expert_cosine_chart(pl.DataFrame(rows + more), "moe.0", SIZE))
    assert title_of(chart) == (
        "The heaviest expert of moe.0 alone has a cosine of 0.65 with all experts of a token; with the "
        "stream added to both, 0.85"
    )
    assert len(data_with(chart, "cosine")) == 8


def test_the_title_has_the_range_over_domains() -> None:
    rows = [
        {"kind": kind, "k": k, "weights": weights, "layer": layer, "domain": domain, "ratio": ratio,
         "cost": 0.0, "cost_low": None, "cost_high": None, "tokens": 5}
        for domain, low in ((ALL, 1.2), ("code", 1.1), ("prose", 1.325))
        for kind, k, weights, layer, ratio in (
            ("keep", 2, "routed", None, 1.0), ("keep", 1, "routed", None, low),
            ("keep", 1, "renormalised", None, 9.0), ("keep", 1, "routed", 3, 9.0),
            ("second", 1, "routed", None, 4.0),
        )
    ]  # fmt: skip
    chart = drawn(fewer_experts_chart(pl.DataFrame(rows, infer_schema_length=None), "moe.0", SIZE))
    assert title_of(chart) == (
        "With one expert a token instead of 2 the perplexity of moe.0 is 10.0 to 32.5 % higher, by domain"
    )


def test_in_and_out_of_a_domain_stand_apart() -> None:
    rows = [{"chosen_on": None, "score": None, "kept": 8, "domain": ALL, "ratio": 1.0}]
    for score, factor in (("reap", 1.0), ("random", 2.0)):
        for chosen, domain, ratio in (
            (ALL, ALL, 1.1), (ALL, "code", 1.5), ("code", ALL, 7.0),
            ("code", "code", 1.0), ("code", "prose", 1.4), ("prose", "prose", 1.2), ("prose", "code", 1.6),
        ):  # fmt: skip
            rows.append(
                {
                    "chosen_on": chosen,
                    "score": score,
                    "kept": 4,
                    "domain": domain,
                    "ratio": factor * ratio,
                }
            )
    chart = drawn(pruning_chart(pl.DataFrame(rows, infer_schema_length=None), "moe.0", SIZE))
    assert title_of(chart) == (
        "With 4 of 8 experts a layer moe.0 loses least by reap: +10.0 % of perplexity"
    )
    found = data_with(chart, "place").filter(pl.col("score") == "reap")
    assert dict(found.select("place", "more").iter_rows()) == pytest.approx(
        {"by all text, on all": 0.1, "by one domain, on it": 0.1, "by one domain, on others": 0.5}
    )
