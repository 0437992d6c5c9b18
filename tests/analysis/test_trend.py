"""Trends with a dose: closed forms, p without one, and what is said of each dose."""

from __future__ import annotations

import numpy as np
import pytest

from moediff.analysis import kinds, trend
from moediff.core.errors import UserError

MODELS = {name: [f"{name}.{seed}" for seed in range(3)] for name in ("one", "two", "four")}
NAMES = [name for members in MODELS.values() for name in members]
DOSES = {"one": 1, "two": 2, "four": 4}


def table(random: np.random.Generator, slope: float, features: int = 200) -> np.ndarray:
    """What features explain in NAMES: a tenth of them more by `slope` with each doubling."""
    found = random.gamma(9, 1 / 9, (features, 9)) * np.exp(random.normal(size=(features, 1)))
    found[: features // 10] *= np.exp(slope * np.repeat([0, 1, 2], 3))
    return found / found.sum(0)


def test_points_on_a_line_lie_wholly_along_it() -> None:
    place = np.array([0.0, 1, 2, 5])
    d2 = (place[:, None] - place) ** 2
    found = trend.along(d2, np.array([place, 3 * place + 7, -place, [1, 0, 0, 0]]))
    assert found[:3] == pytest.approx([1, 1, 1])
    # Of other amounts the squared correlation with the place.
    assert found[3] == pytest.approx(np.corrcoef(place, [1, 0, 0, 0])[0, 1] ** 2)
    assert trend.along(np.zeros((4, 4)), place[None]) == 0


def test_of_two_doses_the_share_is_r2_of_the_kinds() -> None:
    explained = table(np.random.default_rng(0), 0.5)[:, :6]
    two = {"one": MODELS["one"], "two": MODELS["two"]}
    found = trend.trend(explained, NAMES[:6], DOSES, two)
    graded = kinds.graded_usage(explained, NAMES[:6], two)
    (r2,) = (row for row in graded["judged"] if row["statistic"] == "r2")
    assert found["judged"]["observed"] == pytest.approx(r2["observed"])


def test_a_trend_is_seen_and_its_rows_say_how_far() -> None:
    explained = table(np.random.default_rng(1), 1.0)
    found = trend.trend(explained, NAMES, DOSES, MODELS)
    assert found["judged"]["p"] < 0.01
    assert found["judged"]["observed"] > found["judged"]["mean_other"] + 0.1
    least, middle, most = found["rows"]
    assert (least["kind"], least["from_least"]) == ("one", None)
    assert middle["from_least"] < most["from_least"]
    assert 0 < middle["spent_differently"] < most["spent_differently"] < 1
    used = kinds.usage(explained)
    wanted = np.abs(used[:, 6:].mean(1) - used[:, :3].mean(1)).sum() / 2
    assert most["spent_differently"] == pytest.approx(wanted)
    d2 = kinds.hellinger(used)
    assert least["within"] == pytest.approx(np.sqrt([d2[0, 1], d2[0, 2], d2[1, 2]]).mean())
    assert most["from_least"] == pytest.approx(np.sqrt(d2[:3, 6:]).mean())


def test_without_a_trend_p_is_uniform() -> None:
    found = [
        trend.trend(table(np.random.default_rng(seed), 0.0), NAMES, DOSES, MODELS, seed)["judged"][
            "p"
        ]
        for seed in range(60)
    ]
    assert 0.35 < np.mean(found) < 0.65
    assert np.mean(np.array(found) <= 0.1) < 0.25


def test_one_dose_is_refused_and_nothing_explained_is_said() -> None:
    explained = table(np.random.default_rng(0), 0.0)
    with pytest.raises(UserError, match="two doses"):
        trend.trend(explained, NAMES, dict.fromkeys(MODELS, 2), MODELS)
    explained[:, 3] = 0
    assert "two.0" in trend.trend(explained, NAMES, DOSES, MODELS)["unknown"]
