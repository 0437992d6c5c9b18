"""The panel: users of features by hand, and planted worlds in which the true split must stand out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import RECIPE
from moediff.analysis.deletion import deleted_alone, deleted_together
from moediff.analysis.panel import (
    EITHER,
    REST,
    by_users,
    counts,
    group,
    judge,
    own_domains,
    own_groups,
    panel_rows,
    splits,
    text_intervals,
    users,
)
from moediff.core.bootstrap import Units
from moediff.dictionaries.fitting import fit
from moediff.synthetic.planted import owned, planted

CPU = torch.device("cpu")
KINDS = {"moe": ["m0", "m1", "m2", "m3"], "dense": ["d0", "d1", "d2", "d3"]}
NAMES = [name for names in KINDS.values() for name in names]


# --- by hand ------------------------------------------------------------------------------------


def test_a_user_explains_enough_of_an_equal_part() -> None:
    alone = np.array([[0.4, 0.4, 0.0, 0.0], [0.1, 0.1, 0.005, 0.0149], [-0.2, 0.1, 0.1, 0.0]])
    found = users(alone, np.array([True, True, True]), 0.3)
    assert found.tolist() == [
        [True, True, False, False],
        [True, True, False, False],  # an equal part is 0.055, the floor 0.0165
        [False, True, True, False],
    ]
    assert not users(alone, np.array([False, True, True]), 0.3)[0].any()
    assert not users(np.zeros((2, 4)), np.ones(2, bool), 0.3).any()


def test_groups_are_sets_of_sources() -> None:
    used = np.array(
        [[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0],
         [0, 0, 0, 0]], bool)  # fmt: skip
    found = group(used, 2)
    assert len(found.sets) == 1 + 4 + 6
    named = {members: found.count(number) for number, members in enumerate(found.sets)}
    assert named[0, 1] == 2
    assert named[2, 3] == named[0, 1, 2, 3] == named[(0,)] == 1
    assert (found.group_of == REST).sum() == 2
    assert by_users(used) == [1, 1, 3, 1, 1]
    assert counts(found, {"a": ["s0", "s1"], "b": ["s2", "s3"]}) == {"all": 1, "a": 2, "b": 1}


def test_domains_of_what_is_one_kinds_own() -> None:
    used = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 0]], bool)
    explained = np.array([0.3, 0.1, 0.1, 0.2, 0.9])
    first, second = own_domains(used, explained, ["code", "code", None, "poems", "code"], 2)
    assert first["features"] == {"code": 2, "unknown": 1}
    assert first["explained"] == pytest.approx({"code": 0.8, "unknown": 0.2})
    assert second == {"features": {"poems": 1}, "explained": {"poems": 1.0}}
    nothing = own_domains(used[4:], explained[4:], ["code"], 2)
    assert nothing == [{"features": {}, "explained": {}}] * 2


def made_rows(counts: dict[tuple[str, ...], int]) -> list[dict]:
    """Rows as of `panel_rows`, every feature with a share of 0.01."""
    alone = group(np.zeros((1, 8), bool), 4)
    rows = panel_rows(alone, np.zeros((len(alone.sets), 8)), NAMES)
    for row in rows:
        row["features"] = counts.get(tuple(row["sources"]), 0)
        row["share"] = 0.01 * row["features"]
    return rows


def test_the_true_labels_are_judged_against_every_other() -> None:
    counts = {tuple(KINDS["moe"]): 10, tuple(KINDS["dense"]): 4, ("m0", "m1", "d0", "d1"): 5}
    rows = made_rows(counts)
    found = splits(rows, KINDS)
    assert len(found) == 70
    assert found[0]["moe"]["sources"] == KINDS["moe"]
    assert found[0]["dense"]["features"] == 4
    judged = {(row["kind"], row["statistic"]): row for row in judge(rows, KINDS)}
    either = judged[EITHER, "features"]
    assert (either["observed"], either["largest_other"], either["others"]) == (14, 5, 34)
    assert either["p"] == either["smallest_p"] == pytest.approx(1 / 35)
    assert judged["moe", "features"]["p"] == pytest.approx(1 / 70)
    assert judged["dense", "features"]["p"] == pytest.approx(3 / 70)
    assert judged["dense", "share"]["observed"] == pytest.approx(0.04)
    assert judged[EITHER, "share"]["observed"] == pytest.approx(0.07)


def test_nothing_of_its_own_is_no_evidence() -> None:
    assert all(row["p"] == 1 for row in judge(made_rows({}), KINDS))


def test_others_stand_beside_by_their_median_which_few_of_them_cannot_move() -> None:
    judged = judge(made_rows({("m0", "d0", "d1", "d2"): 9}), KINDS)
    assert {row["median_other"] for row in judged} == {0}
    assert max(row["largest_other"] for row in judged) == 9


def of_two_domains(count: int) -> Units:
    return Units(np.arange(count), np.arange(count) % 2)


def test_groups_of_documents_say_how_sure_a_share_is() -> None:
    random = np.random.default_rng(0)
    held = np.full((40, 8), 1 / 40)
    held[:, :4] *= np.linspace(0.1, 1.9, 40)[:, None]  # to the MoEs some groups are larger
    lost = np.zeros((2, 40, 8))
    lost[0, :, :4] = 0.1 * held[:, :4]  # a tenth of every group, in every MoE
    lost[0, :, 4:] = lost[1, :, :4] = 9  # what it costs the others does not count
    lost[1, :, 4:] = random.choice([0.0, 0.4], 40)[:, None] / 40
    found = text_intervals(lost, held, of_two_domains(40), KINDS)
    assert found["moe"] == pytest.approx([0.1, 0.1])
    share = lost[1, :, 4].sum()
    low, high = found["dense"]
    assert share - 0.1 < low < share - 0.03 < share + 0.03 < high < share + 0.1
    both = text_intervals(lost[::-1, :, ::-1], held[:, ::-1], of_two_domains(40), KINDS)
    assert both["moe"] == found["dense"]
    assert both["dense"] == pytest.approx([0.1, 0.1])
    assert both[EITHER] == pytest.approx(found[EITHER])
    assert found[EITHER] == pytest.approx([(low + 0.1) / 2, (high + 0.1) / 2], abs=0.02)
    units = Units(*(np.tile(part, 2) for part in of_two_domains(40)))
    twice = text_intervals(
        np.concatenate([lost, lost], 1) / 2, np.concatenate([held] * 2) / 2, units, KINDS
    )
    assert twice["dense"] == pytest.approx(found["dense"])  # parts of a group are one
    assert text_intervals(lost[:, :9], held[:9], of_two_domains(9), KINDS)["moe"] is None
    nothing = text_intervals(np.zeros((2, 40, 8)), held, of_two_domains(40), KINDS)
    assert nothing == {name: [0, pytest.approx(1 - 0.025 ** (1 / 40))] for name in found}
    assert text_intervals(lost[:, :9] * 0, held[:9], of_two_domains(9), KINDS)["moe"] is None
    judged = judge(made_rows({}), KINDS, found)
    named = {(row["kind"], row["statistic"]): row.get("interval") for row in judged}
    assert named["dense", "share"] == found["dense"]
    assert named["dense", "features"] is None


def test_own_groups_are_those_of_the_true_kinds() -> None:
    groups = group(np.zeros((1, 5), bool), 3)
    assert [groups.sets[number] for number in own_groups(groups, 3, 5)] == [(0, 1, 2), (3, 4)]


def test_kinds_of_unequal_size_have_no_halves_to_exchange() -> None:
    kinds = {"moe": ["m0", "m1", "m2"], "dense": ["d0", "d1"]}
    names = [name for part in kinds.values() for name in part]
    used = np.array([[1, 1, 1, 0, 0]] * 3 + [[0, 0, 0, 1, 1]], bool)
    groups = group(used, 3)
    rows = panel_rows(groups, np.zeros((len(groups.sets), 5)), names)
    judged = {(row["kind"], row["statistic"]): row for row in judge(rows, kinds)}
    assert judged[EITHER, "features"]["others"] == 9
    assert judged[EITHER, "features"]["observed"] == 4
    assert judged["moe", "features"]["p"] == pytest.approx(1 / 10)


# --- planted worlds -----------------------------------------------------------------------------


def panel_of(
    owners: np.ndarray, aligned_rows, tmp_path: Path, seed: int, steps: int = 600
) -> list[dict]:
    """What a panel over eight planted models finds, each of which misses half of its firings."""
    truth = planted(30_000, (16,) * 8, owners, 8, seed, missed=0.5)
    data = aligned_rows(truth.rows, folder=f"rows-{seed}")
    recipe = RECIPE | {"features": 256, "k": 10, "rows": steps * 512, "lr": None}
    dictionary, _ = fit(data, recipe, seed, tmp_path / f"state-{seed}", CPU)
    alone = deleted_alone(dictionary, data, 1024, CPU)
    groups = group(users(alone, np.ones(256, bool), 0.2), 4)
    together = deleted_together(dictionary, data, groups.group_of, len(groups.sets), 1024, CPU)
    return judge(panel_rows(groups, together, NAMES), KINDS)


def test_planted_concepts_of_four_models_make_the_true_split_stand_out(
    aligned_rows, tmp_path: Path
) -> None:
    owners = owned(8, everyone=64, first=24, second=24, private=64)
    found = {(r["kind"], r["statistic"]): r for r in panel_of(owners, aligned_rows, tmp_path, 0)}
    either = found[EITHER, "features"]
    print(f"features {either['observed']}, under any other split {either['largest_other']}")
    assert either["observed"] >= 3 * either["largest_other"]
    assert found[EITHER, "share"]["observed"] >= 3 * found[EITHER, "share"]["largest_other"]
    assert found[EITHER, "share"]["p"] == pytest.approx(1 / 35)
    assert 15 <= found["moe", "features"]["observed"] <= 30
    assert 15 <= found["dense", "features"]["observed"] <= 30


def either_p(owners, aligned_rows, tmp_path: Path, seed: int) -> dict[str, float]:
    found = panel_of(owners, aligned_rows, tmp_path, seed, steps=400)
    return {row["statistic"]: row["p"] for row in found if row["kind"] == EITHER}


@pytest.mark.slow
def test_models_that_share_every_concept_seldom_look_different(
    aligned_rows, tmp_path: Path
) -> None:
    """Twenty worlds; p is at most as often small as a uniform one, since ties make it larger."""
    owners = owned(8, everyone=112, private=64)
    found = [either_p(owners, aligned_rows, tmp_path, seed) for seed in range(20)]
    for statistic in ("share", "features"):
        p = np.array([world[statistic] for world in found])
        print(statistic, np.sort(p).round(3))
        # Of 20 uniform values more than 5 lie below 0.1 with probability 0.01.
        assert (p <= 0.1).sum() <= 5


@pytest.mark.slow
def test_p_is_uniform_where_kinds_mean_nothing(aligned_rows, tmp_path: Path) -> None:
    """Twenty worlds whose concepts are mostly of four models each, drawn without regard to kind."""
    found = []
    for seed in range(20):
        drawn = np.random.default_rng(seed).random((140, 8)).argsort(1) < 4
        owners = np.concatenate([owned(8, everyone=16, private=16), drawn])
        found.append(either_p(owners, aligned_rows, tmp_path, seed)["share"])
    p = np.sort(found)
    print(p.round(3))
    steps = np.arange(20) / 20
    # Kolmogorov-Smirnov: 0.35 is passed by 20 uniform values with probability 0.01.
    assert max((p - steps).max(), (steps + 1 / 20 - p).max()) < 0.35
