"""The grid of planted worlds: what a cell changes, and how its scores are pooled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from method_worlds import OURS, PAPER, SETTINGS
from moediff.activations.rows import AlignedRows
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.synthetic import grid
from moediff.synthetic.firing import Law
from moediff.synthetic.grid import CHOOSE, SCORE, cells, chosen, pooled, table
from moediff.synthetic.methods import METHODS
from moediff.synthetic.planted import COMMON, FIRST, SECOND, graded, owned, planted, stored, varied
from moediff.synthetic.scoring import rates
from snake import run_script

# --- worlds ---------------------------------------------------------------------------------------


def test_scale_and_basis_change_nothing_else() -> None:
    owners = owned(4, everyone=6, first=2, second=2)
    plain, scaled, shared = (
        planted(200, (5,) * 4, owners, 2, 0, 0.25, 0.1, **more)
        for more in ({}, {"scales": [1, 1, 10, 0.5]}, {"shared": True})
    )
    for own, other, scale in zip(plain.rows, scaled.rows, (1, 1, 10, 0.5), strict=True):
        np.testing.assert_allclose(other, scale * own, rtol=1e-6)
    np.testing.assert_array_equal(plain.directions, scaled.directions)
    first, *others = shared.parts()
    np.testing.assert_array_equal(first, plain.parts()[0])
    for source, part in enumerate(others, 1):
        both = owners[:, 0] & owners[:, source]
        np.testing.assert_array_equal(part[both], first[both])
        assert (part[~owners[:, source]] == 0).all()
        assert np.abs(plain.parts()[source][both] - first[both]).max() > 0.1
    with pytest.raises(UserError, match="one width"):
        planted(10, (5, 4), owned(2, everyone=6), 2, 0, shared=True)


def test_stored_rows_are_those_of_the_world(tmp_path: Path) -> None:
    whole = planted(300, (3, 5, 4), owned(3, everyone=6, private=3), 2, 0, noise=0.1)
    data = AlignedRows(stored(whole.rows, tmp_path))
    found = [torch.cat(rows).numpy() for rows in zip(*data.in_order(70), strict=True)]
    joint = np.concatenate(found, axis=1)
    wanted = np.concatenate(whole.rows, axis=1)  # rows are mixed when they are written
    np.testing.assert_array_equal(joint[joint[:, 0].argsort()], wanted[wanted[:, 0].argsort()])
    assert len(np.unique(data.column("document"))) == 6


# --- the grid -------------------------------------------------------------------------------------


def test_cells_leave_the_base_world_in_one_factor() -> None:
    found = cells(SETTINGS)
    assert len(found) == 4 * 3
    assert [c["seed"] for c in found[:3]] == [0, 1, 2]
    assert [c["part"] for c in found[:3]] == [CHOOSE, SCORE, SCORE]
    assert [c["world"] for c in found if c["base"]] == [SETTINGS["base"]] * 6
    left = {(c["factor"], c["level"]): c["world"] for c in found if not c["base"]}
    assert left == {
        ("scale", "10"): SETTINGS["base"] | {"scale": 10},
        ("unique", "0"): SETTINGS["base"] | {"unique": 0},
    }


def test_a_strength_without_end_is_a_level_by_name() -> None:
    settings = SETTINGS | {"factors": {"strength": [2, None]}}
    found = {c["level"]: (c["base"], c["world"]["strength"]) for c in cells(settings)}
    assert found == {"2": (False, 2), grid.ALONE: (True, None)}


def test_a_world_is_made_as_its_cell_says() -> None:
    settings = SETTINGS | {"rows": 100, "validation": 20}
    base = settings["base"]
    plain = grid.made(base, settings, 3)
    has = owned(4, everyone=14, first=3, second=3)
    changes = {"scale": 10, "basis": "shared", "missed": 0.5, "noise": 0.2, "strength": 4,
               "penetrance": 0.5,
        "variation": 0.3, "zipf": 0.5, "correlation": 0.5, "children": 0.5}  # fmt: skip
    assert {*changes, "unique"} == set(base)
    for factor, level in changes.items():
        found = grid.made(base | {factor: level}, settings, 3)
        is_law = factor in ("zipf", "correlation", "children")
        amounts = graded(
            has, level if factor == "strength" else None, level if factor == "penetrance" else 1
        )
        wanted = planted(
            120, (16,) * 4, varied(amounts, level if factor == "variation" else 0, 3), 2, 3,
            missed=level if factor == "missed" else 0, noise=level if factor == "noise" else 0.02,
            shared=factor == "basis", scales=[1, 1, 10, 10] if factor == "scale" else None,
            law=Law(**{factor: level}) if is_law else Law(),
        )  # fmt: skip
        for own, other in zip(found.rows, wanted.rows, strict=True):
            np.testing.assert_array_equal(own, other)
        assert not np.array_equal(found.rows[-1], plain.rows[-1])


def test_at_a_strength_of_one_nothing_is_planted() -> None:
    settings = SETTINGS | {"rows": 100, "validation": 20}
    base = settings["base"]
    plain, equal = (
        grid.made(base | more, settings, 3) for more in ({"unique": 0}, {"strength": 1})
    )
    for own, other in zip(plain.rows, equal.rows, strict=True):
        assert own.tobytes() == other.tobytes()
    np.testing.assert_array_equal(plain.directions, equal.directions)
    assert set(plain.owner) == set(equal.owner) == {COMMON}


def test_a_strength_is_a_ratio_of_explained_variance() -> None:
    amounts = graded(owned(4, first=1), 5, 1)
    made = planted(500, (3,) * 4, amounts, 1, 0)
    explained = [float((rows.astype(float) ** 2).sum()) for rows in made.rows]
    np.testing.assert_allclose(explained, np.array([1, 1, 0.2, 0.2]) * explained[0], rtol=1e-5)


@pytest.mark.parametrize(("penetrance", "models"), [(1, 4), (0.75, 3), (0.5, 2), (0.01, 1)])
def test_a_kinds_feature_is_in_so_many_of_its_models(penetrance: float, models: int) -> None:
    settings = SETTINGS | {"rows": 100, "validation": 20, "models": 4, "features": 40}
    world = grid.made(settings["base"] | {"unique": 0.4, "penetrance": penetrance}, settings, 0)
    assert [int((world.owner == name).sum()) for name in (COMMON, FIRST, SECOND)] == [24, 8, 8]
    has = np.array([part.any(1) for part in world.parts()]).T  # [feature, source]
    assert has[world.owner == COMMON].all()
    for name, side in ((FIRST, slice(0, 4)), (SECOND, slice(4, 8))):
        own = has[world.owner == name]
        assert (own[:, side].sum(1) == models).all()
        assert own.sum(1).max() == models  # and nowhere else
        assert (own[:, side].sum(0) == 8 * models / 4).all()  # models take turns


def test_models_differ_by_the_variation_that_is_asked_for_whatever_their_kind() -> None:
    has = owned(8, everyone=3000, first=1000)
    amounts = varied(graded(has, None, 1), 0.22, 5)
    explained = 2 * np.log(amounts[has])
    assert explained.std() == pytest.approx(0.22, rel=0.02)
    assert explained.mean() == pytest.approx(0, abs=0.01)
    assert (amounts[~has] == 0).all()
    np.testing.assert_array_equal(varied(has, 0.0, 5), has)
    both = 2 * np.log(varied(has, 0.22, 6)[has])
    assert abs(np.corrcoef(explained, both)[0, 1]) < 0.05  # another seed


def test_features_missing_in_part_of_a_kind_are_as_weak_there_as_elsewhere() -> None:
    np.testing.assert_allclose(
        graded(owned(4, everyone=1, first=1, second=1), 4, 0.5),
        [[1, 1, 1, 1], [0.5, 1, 0.5, 0.5], [0.5, 0.5, 1, 0.5]],
    )


def counts(attributed: int, right: int, recovered: int, planted: int = 10, live: int = 100) -> dict:
    return rates(
        {"attributed": attributed, "right": right, "planted": planted, "recovered": recovered,
         "reached": recovered, "live": live}
    )  # fmt: skip


def made_table() -> pl.DataFrame:
    """Two thresholds of one method: the second is better in choosing, the first in scoring."""
    worlds = {
        ("scale", "1", True): {0.2: counts(10, 8, 8), 0.1: counts(10, 10, 10)},
        ("scale", "10", False): {0.2: counts(20, 10, 10), 0.1: counts(10, 10, 10)},
        ("unique", "0", False): {0.2: counts(0, 0, 0, 0), 0.1: counts(10, 0, 0, 0)},
        ("unique", "0.3", True): {0.2: counts(10, 8, 8), 0.1: counts(10, 10, 10)},
    }
    rows = []
    for (factor, level, base), by in worlds.items():
        for part, seed in ((CHOOSE, 0), (SCORE, 1), (SCORE, 2)):
            for threshold in by:
                got = by[threshold] if part == CHOOSE else by[round(0.3 - threshold, 1)]
                about = {"factor": factor, "level": level, "base": base, "part": part, "seed": seed,
                         "method": "m", "threshold": threshold, "in_use": threshold == 0.2}  # fmt: skip
                rows.append(about | got)
    return table(rows)


def test_pooled_rates_are_ratios_of_sums_over_distinct_worlds() -> None:
    found = {row["threshold"]: row for row in pooled(made_table(), CHOOSE).iter_rows(named=True)}
    assert (found[0.2]["attributed"], found[0.2]["right"], found[0.2]["planted"]) == (30, 18, 20)
    assert found[0.2]["precision"] == pytest.approx(18 / 30)
    assert found[0.2]["recall"] == pytest.approx(18 / 20)
    assert found[0.1]["precision"] == pytest.approx(20 / 30)  # what is not planted counts as wrong
    assert found[0.1]["false_share"] == pytest.approx(10 / 300)
    scored_rows = pooled(made_table(), SCORE)
    assert scored_rows["attributed"].to_list() == [60, 60]


def test_a_threshold_is_chosen_without_the_seeds_for_scoring() -> None:
    (found,) = chosen(made_table())
    assert (found["chosen"], found["in_use"]) == (0.1, 0.2)
    assert found["f1_choosing"] == pytest.approx(0.8)  # 2/3 and 1
    assert found["scored"]["precision"] == pytest.approx(18 / 30)
    assert found["scored_in_use"]["precision"] == pytest.approx(20 / 30)


def test_what_is_found_where_nothing_is_planted_stands_beside() -> None:
    (found,) = chosen(made_table())
    assert (found["scored"]["false_features"], found["scored_in_use"]["false_features"]) == (0, 10)
    (found,) = chosen(made_table().filter(pl.col("planted") > 0))
    assert found["scored"]["false_features"] is None


def test_a_tie_leaves_the_threshold_in_use() -> None:
    tied = made_table().with_columns(threshold=pl.when("in_use").then(0.2).otherwise(0.1))
    same = pl.concat(
        [tied.filter("in_use"),
         tied.filter("in_use").with_columns(threshold=pl.lit(0.1), in_use=pl.lit(False))]
    )  # fmt: skip
    (found,) = chosen(pl.concat([same.filter(~pl.col("in_use")), same.filter("in_use")]))
    assert found["chosen"] == 0.2


def test_levels_are_means_over_the_seeds_for_scoring() -> None:
    found = grid.by_level(made_table(), {"m": 0.2})
    assert [(row["factor"], row["level"]) for row in found] == [
        ("scale", "1"), ("scale", "10"), ("unique", "0"), ("unique", "0.3")
    ]  # fmt: skip
    assert [row["f1"] for row in found] == [1, 1, None, 1]
    assert found[2]["false_share"] == pytest.approx(0.1)


def test_the_job_takes_up_worlds_that_are_done(monkeypatch, tmp_path: Path) -> None:
    settings = SETTINGS | {
        "rows": 400,
        "validation": 200,
        "steps": 4,
        "seeds": {CHOOSE: [0], SCORE: [1]},
    }
    settings |= {"factors": {"scale": [1, 10], "noise": [0.02]}}
    params = {"settings": settings, "recipes": {"default": OURS, "paper": PAPER}, "version": 1}
    output = {"table": tmp_path / "planted.parquet", "summary": tmp_path / "planted.json"}

    def run() -> tuple[pl.DataFrame, bytes]:
        config = {"results": tmp_path}
        run_script("synthetic/planted", tmp_path, params=params, output=output, config=config)
        return artifact.read_parquet(output["table"]), output["summary"].read_bytes()

    found, summary = run()
    assert len(list(tmp_path.glob("state/planted-*/scores.json"))) == 4
    assert not list(tmp_path.glob("state/planted-*/world"))
    assert len(found) == 6 * sum(len(method.thresholds) for method in METHODS.values())
    assert (
        found.filter(factor="scale", level="1")
        .drop("factor", "level")
        .equals(found.filter(factor="noise").drop("factor", "level"))
    )
    monkeypatch.setattr(grid, "scores", None)
    again = run()
    assert again[0].equals(found)
    assert again[1] == summary
