"""Reasons for which no verdict is given at all."""

from __future__ import annotations

from typing import Any

import pytest

from claimed import CLAIMS
from moediff.claims.judging import reasons_to_withhold
from moediff.claims.reading import penalties_fault

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
