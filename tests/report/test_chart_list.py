"""The list of charts: each is drawn by a function of its name, from tables that the rules know."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import polars as pl
import pytest

from moediff.core import artifact
from moediff.report import charts
from moediff.report.charts import CHARTS
from snake import Study
from workflow import prepare

SIZE = {"width": 200, "height": 120}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_a_function_of_its_name(name: str) -> None:
    module = import_module(f"moediff.report.charts.{CHARTS[name].module}")
    function = getattr(module, name.replace("-", "_"))
    assert list(inspect.signature(function).parameters) == ["tables", "settings", "size"]


def test_rules_name_the_files_of_every_table_that_a_chart_needs(tmp_path: Path) -> None:
    names = Study(prepare(tmp_path)).workflow.globals
    needed = {table for chart in CHARTS.values() for table in (*chart.needs, *chart.also)}
    assert set(names["CHART_TABLES"]) == needed
    # The tiny study has no panel, and one dictionary over its pair.
    assert set(names["PLOTS"]) == {n for n, chart in CHARTS.items() if chart.on_page} - {
        "panel",
        "splits",
        "model-map",
        "frontier",
    }
    for name in ("panel", "splits", "model-map"):
        assert "no comparison is a panel" in names["lacking"](name)


def test_no_two_charts_share_a_title() -> None:
    assert len({chart.title for chart in CHARTS.values()}) == len(CHARTS)


def test_tables_are_opened_by_their_kind_and_drawn(tmp_path: Path) -> None:
    row = {"comparison": "c", "member": "a.0_b.0", "recipe": "r", "seed": 0, "k": 4, "fve": 0.9,
           "l0": 4.0, "baseline_mean": 0.0, "baseline_pca": 0.7, "source": "pooled",
           "mode": "threshold"}  # fmt: skip
    rows = [row, row | {"seed": 1, "fve": 0.1}, row | {"mode": "batchtopk"}, row | {"source": "a.0"},
            row | {"member": "b.0", "comparison": "d"}]  # fmt: skip
    artifact.write_json(tmp_path / "fve.json", {"rows": rows})
    features = pl.DataFrame(
        {
            "feature": [0, 1], "class": ["A-only", "common"], "relative_norm": [0.1, 0.5],
            "density": [0.1, 0.2], "nu_error": [0.0, 1.0], "nu_reconstruction": [0.0, 1.0],
            "more": [0, 0],
        }
    )  # fmt: skip
    artifact.write_parquet(tmp_path / "features.parquet", features, artifact.made_by("metrics"))
    files = {
        "fve": [tmp_path / "fve.json"],
        "features": [tmp_path / "features.parquet"],
        "null_features": [],
    }
    tables = charts.open_tables(files)
    settings = {"drawn": ["c", "a.0_b.0", "r", 0], "bounds": [0.3, 0.7], "histories": []}

    def drawn(name: str) -> dict:
        return charts.draw(name, tables, settings, SIZE).to_dict()

    (bars,) = (rows for rows in drawn("fve")["datasets"].values() if "kind" in rows[0])
    assert {bar["dictionary"] for bar in bars} == {"c: a.0 + b.0, r, seed 0", "d: b.0, r, seed 0"}
    assert "r explains most, 0.900" in str(drawn("frontier")["title"])
    said = drawn("relative-norm")["title"]
    assert " ".join(said["text"]) == "50 % of live untied features are common (0.3 to 0.7)"
    assert said["subtitle"] == []  # without a null there is no line
    with_null = charts.draw("relative-norm", tables | {"null_features": [features]}, settings, SIZE)
    assert "50 % between two seeds" in " ".join(with_null.to_dict()["title"]["text"])
