"""Dictionary seeds of one panel: the mean of its headline numbers and how far they move."""

from __future__ import annotations

from pathlib import Path

import pytest

from moediff.analysis.over_seeds import exclusive_numbers, graded_numbers, over_seeds
from moediff.analysis.panel import EITHER
from moediff.core import artifact
from snake import run_script


def graded(seed: int, r2: float, excess: float, **about: str) -> dict:
    rows = [
        {"statistic": "pseudo_f", "observed": 9.0},
        {"statistic": "r2", "observed": r2},
        {"statistic": "total_variation", "observed": 1.0, "excess_over_mean": excess},
    ]
    return {"comparison": "c", "member": "m", "recipe": "r", "seed": seed, "judged": rows} | about


def judged(seed: int, features: int, share: float) -> dict:
    rows = [
        {"kind": kind, "statistic": name, "observed": value * times}
        for kind, times in (("moe", 5), (EITHER, 1))
        for name, value in (("share", share), ("features", features))
    ]
    return {"comparison": "c", "member": "m", "recipe": "r", "seed": seed, "judged": rows}


def test_mean_and_deviation_are_those_of_the_seeds_of_one_panel_and_recipe() -> None:
    records = [
        graded(3, 0.5, 0.07), graded(0, 0.2, 0.03), graded(1, 0.2, 0.02), graded(0, 0.9, 0.9, recipe="s"),
        graded(0, 0.1, 0.1, comparison="d"), graded(1, 0.3, 0.1, comparison="d"),
    ]  # fmt: skip
    r2, excess, *others = over_seeds(records, graded_numbers)
    assert r2 == {
        "comparison": "c", "member": "m", "recipe": "r", "number": "r2", "seeds": [0, 1, 3],
        "values": [0.2, 0.2, 0.5], "mean": pytest.approx(0.3), "sd": pytest.approx(0.03**0.5),
    }  # fmt: skip
    assert excess["number"] == "total_variation_excess"
    assert excess["values"] == [0.03, 0.02, 0.07]
    assert [row["comparison"] for row in others] == ["d", "d"]
    assert others[0]["sd"] == pytest.approx(0.02**0.5)
    assert others[1]["sd"] == 0


def test_a_dictionary_without_usage_does_not_count() -> None:
    unknown = {"comparison": "c", "member": "m", "recipe": "r", "seed": 1, "unknown": "nothing"}
    assert over_seeds([graded(0, 0.2, 0.03), unknown], graded_numbers) == []
    found = over_seeds([graded(0, 0.2, 0.03), unknown, graded(2, 0.4, 0.03)], graded_numbers)
    assert [row["seeds"] for row in found] == [[0, 2], [0, 2]]


def test_the_job_gathers_panels_and_what_seeds_move(tmp_path: Path) -> None:
    extra = dict.fromkeys(
        (
            "kinds",
            "live",
            "features_by_users",
            "early",
            "end",
            "own_domains",
            "text_groups",
            "groups",
        )
    )
    paths = []
    for seed, features, share in ((0, 10, 0.02), (1, 14, 0.04)):
        folder = tmp_path / "results/dictionaries/c/m/r" / f"seed-{seed}"
        folder.mkdir(parents=True)
        record = judged(seed, features, share) | extra
        artifact.write_json(folder / "panel.json", artifact.made_by("panel") | record)
        paths.append(str(folder / "panel.json"))
    run_script("analysis/gather_panels", tmp_path, input=paths, output=[tmp_path / "panel.json"])
    found = artifact.read_json(tmp_path / "panel.json")
    assert [row["seed"] for row in found["panels"]] == [0, 1]
    assert all("text_groups" in row for row in found["panels"])
    numbers = {row["number"]: (row["mean"], row["sd"]) for row in found["over_seeds"]}
    assert numbers == {
        "exclusive_features": (12, pytest.approx(8**0.5)),
        "exclusive_share": (pytest.approx(0.03), pytest.approx(0.0002**0.5)),
    }
    assert found["over_seeds"] == over_seeds(found["panels"], exclusive_numbers)
