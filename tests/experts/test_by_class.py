"""Classes of features held against shuffled ones."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from moediff.experts import by_class


def made(random: np.random.Generator, effect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, firings, and shares lost that grow with rarity, which is A-only's lot; `effect` is A-only's
    own."""
    classes = np.repeat(["A-only", "common"], [60, 240])
    fired = random.integers(10, 1000, 300) // np.where(classes == "A-only", 5, 1)
    lost = 1 / (1 + fired / 50) + 0.05 * random.random(300) + effect * (classes == "A-only")
    return classes, fired, lost


def test_what_rarity_alone_makes_is_inside_the_null() -> None:
    above = []
    for seed in range(20):
        classes, fired, lost = made(np.random.default_rng(seed), 0)
        rows = by_class.held_against_shuffled(
            lambda some, lost=lost: lost[some].mean(), classes, fired
        )
        assert lost[:60].mean() > lost[60:].mean() + 0.1  # plainly more, and it says nothing
        above.append(rows[0]["p"]["above"] <= 0.05)
    assert np.mean(above) < 0.3


def test_what_a_class_has_of_its_own_is_seen() -> None:
    classes, fired, lost = made(np.random.default_rng(0), 0.2)
    rows = by_class.held_against_shuffled(lambda some: lost[some].mean(), classes, fired)
    assert [row["class"] for row in rows] == ["A-only", "common"]
    assert rows[0]["p"]["above"] == rows[0]["p"]["smallest"] == 1 / 1000
    assert rows[1]["p"]["below"] == 1 / 1000
    assert rows[0]["value"] > rows[0]["null"]["high"]


def test_a_class_of_few_features_is_left_out() -> None:
    classes = np.array(["A-only"] * 4 + ["common"] * 30)
    rows = by_class.held_against_shuffled(len, classes, np.arange(34))
    assert [row["class"] for row in rows] == ["common"]


@pytest.mark.parametrize(("experts", "spread"), [([3, 3, 3], 1), ([0, 1, 2, 3], 4), ([], 0)])
def test_over_how_many_experts_features_are_spread(experts: list[int], spread: float) -> None:
    assert by_class.effective_experts(np.array(experts)) == pytest.approx(spread)


def test_classes_and_their_experts() -> None:
    count = 80
    features = pl.DataFrame(
        {"feature": range(count), "class": ["A-only"] * 30 + ["common"] * 40 + ["dead"] * 10,
         "fired": [100] * 70 + [0] * 10}
    )  # fmt: skip
    # Every A-only feature goes with expert 5; of the common ones half, spread over four.
    affinity = pl.DataFrame(
        {"feature": range(count), "layer": [2] * count, "fired": [50] * count,
         "expert": [5] * 30 + [n % 4 for n in range(40)] + [None] * 10,
         "z": [9.0] * 30 + [9.0 if n % 8 < 4 else 0.0 for n in range(40)] + [None] * 10,
         "corrected": [0.1] * 30 + [0.0] * 40 + [None] * 10}
    )  # fmt: skip
    rows = {(r["of"], r["class"]): r for r in by_class.experts_of_classes(affinity, features)}
    assert len(rows) == 6
    assert rows["told", "A-only"]["value"] == 1
    assert rows["told", "common"]["value"] == 0.5
    assert rows["experts", "A-only"]["value"] == pytest.approx(1)
    assert rows["experts", "common"]["value"] == pytest.approx(4)
    assert rows["experts", "A-only"]["p"]["below"] == 1 / 1000
    assert rows["information", "A-only"]["value"] == pytest.approx(0.1)
