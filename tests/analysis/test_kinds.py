"""Kinds by what their models spend explained variance on: by hand, by plain forms, and in made panels."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moediff.analysis import differential, kinds, panel, permanova, similarity
from moediff.config import layout
from moediff.core import artifact
from snake import run_script
from usages import explained

KINDS = {"moe": ["m0", "m1", "m2", "m3"], "dense": ["d0", "d1", "d2", "d3"]}
NAMES = [name for names in KINDS.values() for name in names]


def row_of(found: dict, statistic: str) -> dict:
    (row,) = (row for row in found["judged"] if row["statistic"] == statistic)
    return row


# --- usages and their distances -----------------------------------------------------------------


def test_usage_is_the_share_of_what_is_explained() -> None:
    told = np.array([[0.3, -0.1], [0.1, 0.05], [-0.2, 0.15]])
    assert kinds.usage(told) == pytest.approx(np.array([[0.75, 0], [0.25, 0.25], [0, 0.75]]))
    assert kinds.unexplained(told, ["a", "b"]) == []
    told = np.array([[0.0, 0.1, np.nan, 0.2], [-0.1, 0.2, 0.1, np.inf]])
    assert kinds.unexplained(told, ["a", "b", "c", "d"]) == ["a", "c", "d"]


def test_the_distance_of_usages_is_its_plain_form() -> None:
    used = kinds.usage(explained(np.random.default_rng(0), 50))
    plain = [
        [1 - sum(math.sqrt(used[f, s] * used[f, t]) for f in range(50)) for t in range(8)]
        for s in range(8)
    ]
    assert kinds.hellinger(used) == pytest.approx(np.array(plain))
    apart = kinds.hellinger(np.array([[1.0, 0, 0.36], [0, 1, 0.64]]))
    assert apart == pytest.approx(np.array([[0, 1, 0.4], [1, 0, 0.2], [0.4, 0.2, 0]]))


def test_equal_usages_lie_at_one_place() -> None:
    told = np.tile(np.random.default_rng(1).random((40, 1)), (1, 8))
    found = kinds.graded_usage(told, NAMES, KINDS)
    assert found["squared_distances"] == [[0.0] * 8] * 8
    assert found["between_over_within"] == 1
    assert found["dispersion"] == {"moe": 0, "dense": 0}
    for row in found["judged"]:
        assert row["observed"] == pytest.approx(0, abs=1e-15)
        assert (row["p"], row["rank"]) == (1, 35)


def test_total_variation_is_what_kinds_spend_differently() -> None:
    used = np.array([[0.5, 0.7, 0.5, 0.3], [0.5, 0.3, 0.1, 0.1], [0.0, 0.0, 0.4, 0.6]])
    labels = permanova.every_labelling(4, 2)
    # Means 0.6, 0.4, 0 against 0.4, 0.1, 0.5: half of 0.2 + 0.3 + 0.5.
    assert kinds.total_variation(used, labels)[0] == pytest.approx(0.5)
    used = kinds.usage(explained(np.random.default_rng(2), 30, (3, 2)))
    labels = permanova.every_labelling(5, 3)
    plain = [
        sum(abs(row[label].mean() - row[~label].mean()) for row in used) / 2 for label in labels
    ]
    assert kinds.total_variation(used, labels) == pytest.approx(np.array(plain))


def test_total_variation_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    used = kinds.usage(explained(np.random.default_rng(2), 30))
    labels = permanova.every_labelling(8, 4)
    whole = kinds.total_variation(used, labels)
    monkeypatch.setattr(kinds, "AT_ONCE", 8)
    assert kinds.total_variation(used, labels).tolist() == whole.tolist()


# --- judged -------------------------------------------------------------------------------------


def test_a_statistic_is_judged_by_all_other_labels() -> None:
    values = np.array([3.0, 1.0, 5.0, 3.0, 2.0, np.inf])
    labels = np.eye(6, dtype=bool)
    found = kinds.judged(values, np.minimum(values, 9), labels, list("abcdef"))
    assert (found["observed"], found["others"]) == (3, 5)
    assert (found["largest_other"], found["largest_other_side"]) == (None, ["f"])
    assert (found["mean_other"], found["median_other"]) == (None, 3)
    assert (found["rank"], found["p"]) == (4, pytest.approx(4 / 6))  # a tie counts against it
    assert found["smallest_p"] == pytest.approx(1 / 6)


def test_kinds_that_differ_come_first_of_all_splits() -> None:
    told = explained(np.random.default_rng(3), 400, times=9, share=0.3)
    found = kinds.graded_usage(told, NAMES, KINDS)
    assert found["sources"] == NAMES
    used = kinds.usage(told)
    d2, labels = kinds.hellinger(used), permanova.every_labelling(8, 4)
    assert found["squared_distances"] == d2.tolist()
    for statistic in ("r2", "pseudo_f", "total_variation"):
        row = row_of(found, statistic)
        assert (row["rank"], row["others"]) == (1, 34)
        assert row["p"] == row["smallest_p"] == pytest.approx(1 / 35)
        values = found["values"][statistic]
        assert row["observed"] == values[0] > row["largest_other"] == max(values[1:])
        assert row["median_other"] == pytest.approx(np.median(values[1:]))
    apart = permanova.r2(d2, labels)[0]
    assert row_of(found, "r2")["observed"] == apart
    assert row_of(found, "pseudo_f")["observed"] == pytest.approx(6 * apart / (1 - apart))
    row = row_of(found, "total_variation")
    assert row["excess_over_mean"] == pytest.approx(row["observed"] - row["mean_other"])
    assert row["excess_over_median"] == pytest.approx(row["observed"] - row["median_other"])
    assert found["between_over_within"] == permanova.between_over_within(d2, labels)[0] > 1


def test_neither_the_order_of_sources_nor_that_of_kinds_matters() -> None:
    told = explained(np.random.default_rng(4), 200, times=3)
    turned = [5, 0, 7, 2, 1, 4, 6, 3]
    found = kinds.graded_usage(told, NAMES, KINDS)
    again = kinds.graded_usage(
        told[:, turned], [NAMES[s] for s in turned], {k: KINDS[k] for k in ("dense", "moe")}
    )
    assert again["sources"] == [*KINDS["dense"], *KINDS["moe"]]
    assert again["dispersion"] == pytest.approx(found["dispersion"])
    for row, other in zip(found["judged"], again["judged"], strict=True):
        for key in ("observed", "largest_other", "median_other", "p", "rank"):
            assert row[key] == pytest.approx(other[key])


def test_a_model_that_explains_nothing_is_named() -> None:
    told = explained(np.random.default_rng(5), 20)
    told[:, [1, 6]] = -0.1
    found = kinds.graded_usage(told, NAMES, KINDS)
    assert found == {"unknown": "no feature explains anything in m1, d2"}


# --- the jobs -----------------------------------------------------------------------------------


def test_what_kinds_spend_more_on_adds_up_to_the_total_variation() -> None:
    used = np.array([[0.5, 0.5, 0.2, 0.2], [0.3, 0.3, 0.3, 0.3], [0.2, 0.2, 0.5, 0.5]])
    two = {"a": ["a.0", "a.1"], "b": ["b.0", "b.1"]}
    found = kinds.by_domain(used, two, ["code", "code", "prose"])
    assert [(row["kind"], row["domain"], row["features"]) for row in found] == [
        ("a", "code", 1), ("b", "prose", 1),
    ]  # fmt: skip
    assert [row["more"] for row in found] == pytest.approx([0.3, 0.3])
    table = kinds.usage(explained(np.random.default_rng(2), 60, times=3))
    rows = kinds.by_domain(table, KINDS, [["x", "y", None][f % 3] for f in range(60)])
    true = np.arange(8)[None] < 4
    for kind in KINDS:
        whole = sum(row["more"] for row in rows if row["kind"] == kind)
        assert whole == pytest.approx(kinds.total_variation(table, true)[0])
    assert kinds.by_domain(np.full((3, 4), 1 / 3), two, [None] * 3) == []


def test_the_jobs_grade_each_panel_and_gather_them(tmp_path: Path) -> None:
    told = explained(np.random.default_rng(6), 60, times=3)

    def folder(name: str) -> Path:
        place = {"comparison": name, "member": "m", "recipe": "r", "seed": "3"}
        return tmp_path / layout.path("dictionary", **place, file="")

    def run(name: str, values: np.ndarray) -> dict:
        table = pl.DataFrame({f"explained_{n}": values[:, s] for s, n in enumerate(NAMES)})
        path = folder(name) / "explained.parquet"
        path.parent.mkdir(parents=True)
        artifact.write_parquet(path, table, artifact.made_by("panel"))
        top = path.with_name("features.parquet")
        domains = ["code"] * 40 + [None] * 20
        table = pl.DataFrame({"top_domain": domains}, schema={"top_domain": pl.String})
        artifact.write_parquet(top, table, artifact.made_by("metrics"))
        pairs = [("cka", *two, 0.6, 0.2, 0.5) for two in itertools.combinations(NAMES, 2)]
        alike = pl.DataFrame(pairs, schema=similarity.COLUMNS, orient="row")
        artifact.write_parquet(tmp_path / "alike.parquet", alike, artifact.made_by("similarity"))
        run_script(
            "analysis/kinds", tmp_path,
            input={"explained": path, "similarity": tmp_path / "alike.parquet", "of_domains": top},
            output={"kinds": path.parent / "kinds.json", "features": path.parent / "own.parquet"},
            params={"sources": NAMES, "kinds": KINDS},
            wildcards={"comparison": name, "member": "m", "recipe": "r", "seed": "3"},
        )  # fmt: skip
        return artifact.read_json(path.parent / "kinds.json")

    found, nothing = run("c", told), run("d", -told)
    used = kinds.ordered_usage(told, NAMES, KINDS)
    table = differential.differential(used, len(next(iter(KINDS.values()))))
    assert artifact.read_parquet(folder("c") / "own.parquet").equals(table)
    assert artifact.read_parquet(folder("d") / "own.parquet").is_empty()
    alike = found["without_dictionary"]
    assert [row["measure"] for row in alike] == ["cka"]
    assert alike[0]["judged"][0]["p"] == 1  # all pairs are equally far apart
    wanted = kinds.graded_usage(told, NAMES, KINDS)
    wanted |= {"catalogue": differential.catalogue(table, used, KINDS), "without_dictionary": alike}
    wanted["by_domain"] = kinds.by_domain(used, KINDS, ["code"] * 40 + [None] * 20)
    wanted = json.loads(json.dumps(wanted))
    about = {"comparison": "c", "member": "m", "recipe": "r", "seed": 3, "kinds": KINDS}
    assert {key: found[key] for key in (*wanted, *about)} == wanted | about
    assert "no feature explains anything in m0" in nothing["unknown"]
    files = [str(folder(name) / "kinds.json") for name in ("c", "d")]
    least = [{"statistic": "r2", "least": 0.01}]
    planted = folder("c") / "detectable.json"
    artifact.write_json(planted, artifact.made_by("detectable") | about | {"least": least})
    run_script(
        "analysis/gather_kinds", tmp_path,
        input={"kinds": files, "detectable": [str(planted)], "trends": []},
        output=[tmp_path / "kinds.json"],
    )  # fmt: skip
    gathered = artifact.read_json(tmp_path / "kinds.json")
    panels = gathered["panels"]
    assert gathered["over_seeds"] == []  # one dictionary each
    assert panels[0] == wanted | about | {"detectable": least}
    left = {"unknown": nothing["unknown"], "catalogue": [], "without_dictionary": alike,
            "by_domain": []}  # fmt: skip
    assert panels[1] == {**left, **about, "comparison": "d", "detectable": []}


# --- made panels --------------------------------------------------------------------------------


def strict_p(told: np.ndarray) -> float:
    """p of the share that features of either kind alone carry, by the strict rule; shares add up."""
    groups = panel.group(panel.users(told, np.ones(len(told), bool), 0.2), 4)
    together = np.zeros((len(groups.sets), 8))
    for number in range(len(groups.sets)):
        together[number] = told[groups.group_of == number].sum(0)
    rows = panel.judge(panel.panel_rows(groups, together, NAMES), KINDS)
    (p,) = (r["p"] for r in rows if (r["kind"], r["statistic"]) == (panel.EITHER, "share"))
    return p


def p_of_worlds(worlds: int, features: int, **made) -> dict[str, np.ndarray]:
    """p [world] of each graded statistic, and of the strict rule."""
    found: dict[str, list[float]] = {}
    for seed in range(worlds):
        told = explained(np.random.default_rng(seed), features, **made)
        graded = kinds.graded_usage(told, NAMES, KINDS)
        for row in graded["judged"]:
            found.setdefault(row["statistic"], []).append(row["p"])
        found.setdefault("strict", []).append(strict_p(told))
    return {name: np.array(values) for name, values in found.items()}


def power(p: np.ndarray) -> float:
    return float((p <= 1 / 35 + 1e-9).mean())


def uniform(p: np.ndarray) -> float:
    """The largest distance of p's distribution from that of the 35 equal steps (Kolmogorov-Smirnov)."""
    steps = np.arange(1, 36) / 35
    return float(np.abs([(p <= step + 1e-9).mean() - step for step in steps]).max())


def test_a_difference_that_the_strict_rule_cannot_see_is_seen() -> None:
    found = p_of_worlds(20, 1000, times=3, share=0.1)
    assert power(found["r2"]) >= 0.8
    assert power(found["total_variation"]) >= 0.8
    assert power(found["strict"]) <= 0.25


@pytest.mark.slow
@pytest.mark.parametrize("common", [0.0, 0.2])
def test_p_is_uniform_where_nothing_differs(common: float) -> None:
    found = p_of_worlds(200, 1000, times=1, common=common)
    for name in ("r2", "pseudo_f", "dispersion_f", "total_variation"):
        print(f"common {common}: {name} at 1/35 {power(found[name]):.3f}, "
              f"from uniform {uniform(found[name]):.3f}")  # fmt: skip
        # 200 uniform values are passed at 0.115 with probability 0.01.
        assert uniform(found[name]) < 0.115


@pytest.mark.slow
@pytest.mark.parametrize(("common", "least"), [(0.0, 0.8), (0.1, 0.8), (0.2, 0.8), (0.3, 0.5)])
def test_a_tenth_of_features_three_times_stronger_is_seen(common: float, least: float) -> None:
    """Sixty worlds of the study's size; 0.2 is how strongly models differ together in `usages`."""
    found = p_of_worlds(60, 4000, times=3, share=0.1, common=common)
    print({name: round(power(p), 3) for name, p in found.items()})
    assert power(found["r2"]) >= least
    assert power(found["strict"]) <= 0.1
