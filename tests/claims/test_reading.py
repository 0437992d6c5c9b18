"""Claims read: the shipped file, and one line for each way to be wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from claimed import CLAIMS, ROW, SHIPPED, permuted, read, verdicts
from moediff.claims.metrics import METRICS, OF_EXPERTS
from moediff.claims.reading import DICTIONARIES, EXPERTS, GROUPS, checked, read_claims
from moediff.core.errors import ConfigError
from moediff.core.terms import KNOWN, LABELLINGS, PERMUTED


@pytest.fixture
def claims(tmp_path: Path) -> dict:
    return read(tmp_path, CLAIMS)


def test_the_shipped_claims_are_whole() -> None:
    claims = read_claims(SHIPPED)
    rows = claims["claims"].values()
    of_experts = read_claims(SHIPPED, EXPERTS)["claims"].values()
    assert {row["metric"] for row in rows} == set(METRICS) - set(OF_EXPERTS)
    assert {row["metric"] for row in of_experts} == set(OF_EXPERTS)
    assert not any(row["primary"] for row in of_experts)
    assert {row["null"] for row in rows} == {KNOWN, PERMUTED, LABELLINGS}
    primary = [row for row in rows if row["primary"]]
    # With 4 + 4 models no p is below 1 in 70: with more primary claims none could be shown.
    assert len(primary) / 70 <= claims["alpha"] < (len(primary) + 1) / 70
    wanted = {
        "fve_pooled": ("near", 0.87, 0.05), "log2_moe_only_over_dense_only": ("below", None, 1),
        "density_order_margin": ("above", None, 0.1), "relative_norm_side_modes": ("near", 0, 0.1),
        "common_cosine_median": ("near", 0, 0.1), "tied_cosine_lowest": ("near", 1, 1e-6),
        "panel_moe_only_variance": ("above", None, 0.01),
    }  # fmt: skip
    found = {
        row["metric"]: (row["direction"], row["reference"], row["minimum_effect"]) for row in rows
    }
    assert wanted.items() <= found.items()


def test_every_minimum_effect_of_the_shipped_claims_is_argued() -> None:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    effects = [line for line in lines if line.startswith("    minimum_effect:")]
    assert len(effects) == sum(line.startswith("  - id:") for line in lines)
    assert all("# " in line for line in effects)


def test_the_papers_own_counts_and_densities_fit_the_shipped_claims() -> None:
    """910, 18,940 and 3,226 features at 0.87 are what the paper found, so they must be shown."""
    claims = read_claims(SHIPPED)
    counts = {"moe_only_feature_share": 910, "common_feature_share": 18_940,
              "dense_only_feature_share": 3226}  # fmt: skip
    findings = {
        name: {"estimate": n / 23_076, "interval": [n / 23_076 - 0.01, n / 23_076 + 0.01]}
        for name, n in counts.items()
    }
    fewer = float(np.log2(910.5 / 3226.5))
    findings |= {
        "fve_pooled": {"estimate": 0.87, "interval": [0.86, 0.88]},
        "tied_cosine_lowest": {"estimate": 1.0, "interval": [1.0, 1.0]},
        "log2_moe_only_over_dense_only": permuted(fewer, [fewer - 1, fewer + 1], 1.0, 1 / 70),
    }
    found = verdicts(claims, findings)
    shown = {row["metric"] for row in found.values() if row["verdict"] == "shown"}
    assert shown == set(findings)


def test_a_column_called_null_needs_no_quotes(tmp_path: Path) -> None:
    text = yaml.safe_dump(CLAIMS).replace("'null':", "null:")
    assert yaml.safe_load(text)["claims"][0][None] == PERMUTED
    assert read(tmp_path, text)["claims"]["margin"]["null"] == PERMUTED


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("metric", "accuracy", "claims.margin.metric: 'accuracy' is not one of"),
        ("direction", "up", "claims.margin.direction: 'up' is not one of"),
        ("fidelity", "exact", "claims.margin.fidelity: 'exact' is not one of"),
        ("null", "shuffled", "claims.margin.null: 'shuffled' is not one of"),
        ("minimum_effect", 0, "claims.margin.minimum_effect: 0 is less than or equal to"),
        ("minimum_effect", "5e-4", "claims.margin.minimum_effect: '5e-4' is text to YAML"),
        ("minimum_effect", float("nan"), "claims.margin.minimum_effect: nan is not a finite"),
        ("statement", None, "claims.margin: the key 'statement' is missing"),
        ("source", "x", "claims.margin: unknown key 'source'"),
        ("id", "fewer", "claims: the id 'fewer' stands twice"),
        ("id", None, "claims: row 1 has no id"),
        ("direction", "near", "claims.margin.null: a claim that is near a value"),
        ("direction", "either", "claims.margin.direction: density_order_margin is an order"),
        ("reference", 0, "claims.margin.reference: that of null 'labels of models permuted over"),
        ("opposite", "yes", "claims.margin.opposite: 'yes' is"),
        ("null", KNOWN, "claims.margin.primary: null 'a known value' gives no p"),
        (
            "null",
            LABELLINGS,
            "claims.margin.null: 'every other labelling of the panel' does not go",
        ),
    ],
)
def test_a_row_that_is_wrong_is_refused_in_one_line(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    wrong = copy.deepcopy(CLAIMS)
    if value is None:
        del wrong["claims"][0][key]
    else:
        wrong["claims"][0][key] = value
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, wrong)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "claims.yaml"))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_wrong_is_refused_in_one_line(tmp_path: Path) -> None:
    unreferenced = copy.deepcopy(CLAIMS)
    del unreferenced["claims"][3]["reference"]
    without = {key: value for key, value in CLAIMS.items() if key != "limits"}
    falling, alike, both = (copy.deepcopy(CLAIMS) for _ in range(3))
    both["claims"][3]["opposite"] = True
    falling["primary"]["bounds"] = [0.7, 0.3]
    alike["primary"]["dense"] = "moe"
    for claims, message in (
        (falling, r"primary\.bounds: \[0\.7, 0\.3\] do not rise"),
        (alike, r"primary\.dense: the same model as primary\.moe"),
        ("claims: {a: 1}", "must be a list"),
        ("a: [", "cannot be read as YAML"),
        (unreferenced, "claims.level.reference: the key is missing"),
        (both, "claims.level.opposite: of above or below against other labellings alone"),
        (without, "the key 'limits' is missing"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(tmp_path, claims)
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read"):
        read_claims(tmp_path / "nothing.yaml")


def test_the_digest_is_of_what_the_file_says(tmp_path: Path) -> None:
    text = yaml.safe_dump(CLAIMS)
    digest = read(tmp_path, text)["digest"]
    assert read(tmp_path, "# a comment\n" + text)["digest"] == digest
    assert read(tmp_path, yaml.safe_dump(CLAIMS, sort_keys=False))["digest"] == digest
    changed = copy.deepcopy(CLAIMS)
    changed["claims"][0]["minimum_effect"] = 0.4
    assert read(tmp_path, changed)["digest"] != digest


def test_a_claim_of_one_group_leaves_the_digest_of_the_other_as_it_was(tmp_path: Path) -> None:
    more = copy.deepcopy(CLAIMS)
    more["claims"].append(
        ROW | {"id": "cost", "metric": "one_expert_cost", "null": KNOWN, "reference": 0.1}
    )
    before, after = (
        {group: checked(copy.deepcopy(claims), group) for group in GROUPS}
        for claims in (CLAIMS, more)
    )
    assert before[DICTIONARIES]["digest"] == after[DICTIONARIES]["digest"]
    assert before[EXPERTS]["digest"] != after[EXPERTS]["digest"]
    assert list(after[EXPERTS]["claims"]) == ["cost"]
    assert before[DICTIONARIES]["claims"] == after[DICTIONARIES]["claims"]
    more["claims"][-1] |= {"null": PERMUTED, "reference": None}
    with pytest.raises(ConfigError, match=r"claims\.cost\.null: one_expert_cost is of one model"):
        checked(more)
