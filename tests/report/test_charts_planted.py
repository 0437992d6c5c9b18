"""The chart of methods on planted worlds: rates by factor, recall by strength, and what is false."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from charted import SIZE, data_with, drawn, title_of
from moediff.report.charts import synthetic
from moediff.report.charts.synthetic import planted_chart
from moediff.synthetic import grid
from moediff.synthetic.methods import METHODS

SCALE = ("scale", "1"), ("scale", "10")
STRENGTH = (*SCALE, ("strength", "2"), ("strength", "10"), ("strength", grid.ALONE))
NOTHING = (("unique", "0"), ("unique", "0.3"))


def row(factor: str, level: str, method: str, **more: Any) -> dict[str, Any]:
    nothing = (factor, level) == ("unique", "0")
    right = {"panel": 0.8, "graded": 0.9}[method]
    return {
        "factor": factor, "level": level, "base": False, "part": "score", "seed": 1, "method": method,
        "threshold": 0.2, "in_use": True, "attributed": 2, "right": 1, "planted": 0 if nothing else 10,
        "recovered": 1, "reached": 1, "live": 20, "precision": right, "false_share": 0.1,
        "recall": None if nothing else right, "f1": None if nothing else right,
    } | more  # fmt: skip


def worlds(*levels: tuple[str, str]) -> pl.DataFrame:
    rows = [row(*level, method) for level in levels for method in ("panel", "graded")]
    unlike = {"part": "choose"}, {"in_use": False}
    return grid.table([*rows, *(row(*SCALE[0], "panel", precision=0.0, **one) for one in unlike)])


def test_methods_are_drawn_by_factor_and_the_best_is_named() -> None:
    chart = drawn(planted_chart(worlds(*SCALE, *NOTHING), SIZE))
    assert "graded finds most (F1 0.90), panel least (0.80)" in title_of(chart)
    (told,) = [" ".join(chart["title"]["subtitle"])]
    assert told == "Called one kind's own where nothing is, features a world: panel 2.0, graded 2.0"
    rows = data_with(chart, "precision")
    assert set(zip(rows["factor"], rows["level"], strict=True)) == {*SCALE, NOTHING[1]}
    assert rows["precision"].min() == 0.8  # other parts and thresholds are not drawn


def test_a_factor_of_one_level_is_drawn_only_where_no_other_is() -> None:
    rows = data_with(drawn(planted_chart(worlds(*SCALE, ("noise", "0.05")), SIZE)), "precision")
    assert set(rows["factor"]) == {"scale"}
    rows = data_with(drawn(planted_chart(worlds(("noise", "0.05")), SIZE)), "precision")
    assert set(rows["factor"]) == {"noise"}


def test_recall_by_strength_rises_to_what_is_alone() -> None:
    table = worlds(*STRENGTH, *NOTHING).with_columns(
        recall=pl.when(pl.col("level") == "2", pl.col("method") == "panel")
        .then(0.0)
        .otherwise("recall")
    )
    chart = drawn(planted_chart(table, SIZE))
    rates, power = chart["vconcat"]
    assert "Of planted unique features" in title_of(rates)
    assert "explain 10 times as much in one kind graded finds 90 %" in title_of(power)
    assert power["spec"]["encoding"]["x"]["sort"] == ["2", "10", grid.ALONE]
    names = ["panel: 2.0 false", "graded: 2.0 false"]
    assert power["facet"]["sort"] == names
    rows = chart["datasets"][power["data"]["name"]]
    found = {(row["method"], row["level"]): row["recall"] for row in rows}
    wanted = {(names[0], "2"): 0.0, (names[1], "2"): 0.9}
    wanted |= {(name, level): recall for name, recall in zip(names, (0.8, 0.9), strict=True)
               for level in ("10", grid.ALONE)}  # fmt: skip
    assert found == pytest.approx(wanted)


def test_without_a_strength_to_compare_or_a_world_of_nothing_there_is_less_to_say() -> None:
    chart = drawn(planted_chart(worlds(*SCALE, ("strength", grid.ALONE)), SIZE))
    assert "vconcat" not in chart
    assert not chart["title"].get("subtitle")
    strengths = drawn(planted_chart(worlds(*STRENGTH), SIZE))["vconcat"][1]
    assert strengths["facet"]["sort"] == ["panel", "graded"]


def test_every_method_has_a_colour_of_its_own() -> None:
    assert len(METHODS) <= len({*synthetic.COLOURS, synthetic.EIGHTH})


def test_a_strength_without_end_bears_the_name_that_the_grid_gives_it() -> None:
    assert synthetic.ALONE == grid.ALONE
