"""Reference results under docs/reference: today's code reads them and says the same of them."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from moediff.analysis import controls, panel
from moediff.claims import verdicts
from moediff.claims.metrics import METRICS
from moediff.claims.reading import read_claims
from moediff.core import artifact
from moediff.core.terms import KNOWN
from moediff.report.charts.dictionaries import fve_chart
from moediff.report.charts.panel import panel_chart
from moediff.synthetic import methods
from workflow import ROOT

STUDIES = sorted(path.parent for path in (ROOT / "docs/reference").glob("*/claims.json"))
SIZE = {"width": 300, "height": 200}


def stored(study: Path, name: str) -> dict:
    path = study / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    artifact.check_format(path, found)
    return found


def agree(found: list[dict], wanted: list[dict]) -> None:
    """Rows are the same, numbers to rounding."""
    for new, old in zip(found, wanted, strict=True):
        assert new.keys() == old.keys()
        for key, value in new.items():
            same = old[key] if isinstance(old[key], str) else pytest.approx(old[key], abs=1e-12)
            assert value == same, key


@pytest.fixture(params=STUDIES, ids=lambda path: path.name)
def study(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_claim_has_the_verdict_that_its_numbers_give(study: Path) -> None:
    found = stored(study, "claims")
    wanted = read_claims(ROOT / "config/claims.yaml")
    assert [row["id"] for row in found["claims"]] == list(wanted["claims"])
    primary = [row for row in found["claims"] if row["primary"]]
    adjusted = verdicts.holm([1.0 if row["p"] is None else row["p"] for row in primary])
    for row, p in zip(primary, adjusted, strict=True):
        if row["p"] is not None:
            assert row["p_holm"] == pytest.approx(p)
    for row in found["claims"]:
        assert row["metric"] in METRICS
        if row["estimate"] is None:
            assert row["verdict"] == verdicts.NOT_MEASURED
        elif row["verdict"] != verdicts.NO_VERDICT:
            again = verdicts.verdict(
                row["estimate"], row["interval"], row["reference"] or 0.0, row["minimum_effect"],
                row["direction"], row["p_holm"], row["p_against_holm"], [], found["alpha"],
                row["null"]["kind"] == KNOWN,
            )  # fmt: skip
            assert again.verdict == row["verdict"]


def test_panels_are_judged_as_they_were(study: Path) -> None:
    for found in stored(study, "panel")["panels"]:
        again = panel.judge(found["groups"], found["kinds"])  # JSON has its keys in order
        agree(
            *(
                sorted(rows, key=lambda r: (r["kind"], r["statistic"]))
                for rows in (again, [_without_interval(row) for row in found["judged"]])
            )
        )
        rows = panel.null_rows(found["groups"], found["kinds"])
        chart = panel_chart(panel.drawn_rows("d", rows, found["judged"]), SIZE)
        assert chart.to_dict()


def _without_interval(row: dict) -> dict:
    """What rows of groups alone say."""
    return {key: value for key, value in row.items() if key != "interval"}


def test_counts_and_error_rates_agree(study: Path) -> None:
    found = stored(study, "classes")
    agree(controls.error_rates(found["rows"]), found["error_rates"])


def test_variance_explained_is_drawn(study: Path) -> None:
    rows = pl.DataFrame(stored(study, "fve")["rows"])
    pooled = rows.filter((pl.col("source") == "pooled") & (pl.col("mode") == "threshold"))
    assert pooled["fve"].is_between(0, 1).all()
    assert fve_chart(pooled, SIZE).to_dict()


def test_planted_truth_is_summed_up_by_method() -> None:
    found = stored(ROOT / "docs/reference/planted", "planted")
    best = {row["method"]: row["scored"]["f1"] for row in found["methods"]}
    assert max(best, key=best.get) == "panel"
    assert set(best) == set(methods.METHODS)
