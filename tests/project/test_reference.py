"""Reference results under docs/reference: today's code reads them and says the same of them."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from moediff.analysis import controls, panel
from moediff.claims.metrics import ORDERS
from moediff.claims.verdicts import NO_VERDICT, NOT_MEASURED
from moediff.report import finding
from moediff.report.charts.dictionaries import fve_chart
from moediff.report.charts.panel import panel_chart
from moediff.synthetic import methods
from stored import judged_again, stored
from workflow import ROOT

STUDIES = sorted(path.parent for path in (ROOT / "docs/reference").glob("*/claims.json"))
SINCE_VERSION_3 = ("interval", "mean_other", "median_other")
SIZE = {"width": 300, "height": 200}


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


def test_stored_claims_are_judged_again(study: Path) -> None:
    stored_rows = {row["id"]: row for row in stored(study, "claims")["claims"]}
    for name, row in judged_again(study).items():
        old = stored_rows[name]
        assert row["minimum_effect"] == old["minimum_effect"]
        if row["metric"] not in ORDERS:
            assert (row["estimate"], row["p"]) == (old["estimate"], old["p"])
            assert row["p_holm"] == pytest.approx(old["p_holm"])
        unsaid = {NO_VERDICT, NOT_MEASURED}
        assert row["verdict"] == old["verdict"] or unsaid.isdisjoint(
            (row["verdict"], old["verdict"])
        )


def test_the_verdicts_of_the_study_s_document_are_those_of_its_stored_numbers() -> None:
    text = (ROOT / "docs/study.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)`.*\| ([^|]+) \|$", text, re.MULTILINE)
    again = judged_again(ROOT / "docs/reference/study")
    assert dict(table) == {name: row["verdict"] for name, row in again.items()}


def test_panels_are_judged_as_they_were(study: Path) -> None:
    for found in stored(study, "panel")["panels"]:
        again = panel.judge(found["groups"], found["kinds"])  # JSON has its keys in order
        agree(
            *(
                sorted(rows, key=lambda r: (r["kind"], r["statistic"]))
                for rows in (
                    [_comparable(row) for row in part] for part in (again, found["judged"])
                )
            )
        )
        rows = panel.null_rows(found["groups"], found["kinds"])
        chart = panel_chart(panel.drawn_rows("d", rows, found["judged"]), SIZE)
        assert chart.to_dict()


def _comparable(row: dict) -> dict:
    """What rows of groups alone say, as far as version 3 said the same: others stood by their mean."""
    return {key: value for key, value in row.items() if key not in SINCE_VERSION_3}


def test_counts_and_error_rates_agree(study: Path) -> None:
    found = stored(study, "classes")
    agree(controls.error_rates(found["rows"]), found["error_rates"])


def test_variance_explained_is_drawn(study: Path) -> None:
    rows = pl.DataFrame(stored(study, "fve")["rows"])
    pooled = rows.filter((pl.col("source") == "pooled") & (pl.col("mode") == "threshold"))
    assert pooled["fve"].is_between(0, 1).all()
    assert fve_chart(pooled, SIZE).to_dict()


def test_what_the_readme_says_of_the_default_is_what_was_stored() -> None:
    default = ROOT / "docs/reference/default"
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").replace("\n>", "\n").split())
    first = finding.graded(stored(default, "kinds")["panels"], alpha=0.05)
    assert first.sentence in said
    assert first.error.startswith("p 0.0286, of all 35 ways")  # 1/35
    (fve,) = (
        row
        for row in stored(default, "fve")["rows"]
        if (row["comparison"], row["source"], row["mode"]) == ("moe-dense", "pooled", "threshold")
    )
    told = f"explains {fve['fve']:.3f} of the validation variance with k = {fve['k']}, principal "
    assert f"{told}components {fve['baseline_pca']:.3f}" in said
    (weak, *_) = stored(default, "claims")["withheld"]
    assert weak.startswith("models do not beat the trigram")
    assert "worse than a trigram" in said


def test_what_is_said_of_planted_worlds_is_what_was_found() -> None:
    found = stored(ROOT / "docs/reference/planted", "planted")
    assert {row["method"] for row in found["methods"]} == set(methods.METHODS)
    whole = {row["method"]: row["scored_in_use"]["f1"] for row in found["methods"]}
    in_use = {
        (row["factor"], row["level"], row["method"]): row for row in found["levels"]["in_use"]
    }

    def f1(factor: str, level: str) -> dict[str, float]:
        return {method: in_use[factor, level, method]["f1"] for method in whole}

    text = (ROOT / "docs/decisions.md").read_text(encoding="utf-8")
    (told,) = (part for part in text.split("\n\n") if part.startswith("**On planted worlds"))
    told = " ".join(told.split())
    assert max(whole, key=lambda method: whole[method]) == "panel"
    for value in whole.values():
        assert f"{value:.2f}" in told
    base, large, half, shared = (
        f1(*at) for at in (("scale", "1"), ("scale", "10"), ("missed", "0.5"), ("basis", "shared"))
    )
    most = sorted(base.values())[-6:]
    assert f"six of them lie between {most[0]:.2f} and {most[-1]:.2f}" in told
    pairs = max(value for method, value in half.items() if method not in ("graded", "panel"))
    assert f"the graded statistic has {half['graded']:.2f}, the panel {half['panel']:.2f}" in told
    assert f"no method of pairs more than {pairs:.2f}" in told
    false = in_use["basis", "shared", "graded"]["false_share"]
    assert f"attributes {100 * false:.0f} % of all live features falsely" in told
    assert f"(F1 {shared['graded']:.2f}; pairs by relative norm {shared['default']:.2f})" in told
    assert f"({large['paper']:.2f} from {base['paper']:.2f})" in told
    assert all(large[method] >= base[method] - 0.01 for method in large if method != "paper")
    nothing = {method: in_use["unique", "0", method]["false_share"] for method in whole}
    assert [method for method, share in nothing.items() if share > 0] == ["matched-saes"]
    assert (
        f"matched SAEs alone call features exclusive ({100 * nothing['matched-saes']:.0f} %)"
        in told
    )
