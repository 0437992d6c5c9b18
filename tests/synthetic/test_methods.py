"""Methods of attribution: rules on dictionaries made by hand, and an easy world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import RECIPE
from method_worlds import OURS, PAPER, SETTINGS
from moediff.activations.rows import AlignedRows
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from moediff.synthetic import grid, rules
from moediff.synthetic.methods import METHODS, recipes
from moediff.synthetic.planted import COMMON, FIRST, SECOND, Planted
from moediff.synthetic.rules import DEAD
from moediff.synthetic.scoring import Found, score
from moediff.synthetic.world import World

# --- rules on dictionaries made by hand -----------------------------------------------------------


def made_world(folder: Path, dictionaries: dict[tuple, Dictionary], sources: int = 2) -> World:
    """Sources with equal rows of independent axes, all positive; nothing is fitted."""
    return world_of_rows(folder, dictionaries, [[0, 1, 2, 3]] * sources)


def world_of_rows(
    folder: Path, dictionaries: dict[tuple, Dictionary], orders: list[list[int]]
) -> World:
    """The same, where each source has the axes in an order of its own."""
    rows = np.random.default_rng(0).exponential(size=(4000, 4)).astype(np.float32)
    directions = np.concatenate([np.eye(4)[order] for order in orders], axis=1)
    truth = Planted([rows[:, o] for o in orders], directions, np.full(4, COMMON))
    world = World(truth, 2000, {}, 0, folder)
    world._fitted = dictionaries
    return world


@torch.no_grad()
def by_axis(axes: list[int], norms: list[tuple[float, ...]], dead: list[int], **shape: object):
    """Feature n reads an axis of its sources and writes it with these norms; of equal rows, exactly where
    they are equal or alone. Those of `dead` never fire."""
    sources = len(norms[0])
    recipe = RECIPE | {"features": len(axes), **shape}
    made = Dictionary(Shape.of(recipe, (4,) * sources))
    for block in made.blocks.values():
        for own, n in enumerate(range(block.features.start, block.features.stop)):
            row = torch.zeros(4 * sources)
            row[axes[n] :: 4] = torch.tensor(norms[n])
            block.weight[own] = row[block.columns]
            block.encoder[own] = row[block.columns] / row.square().sum()
    made.threshold.fill_(0.0)
    made.threshold[dead] = 1e9
    return made.requires_grad_(False)


PAIRED = (0, 1)


def test_rules_of_norm_and_of_users(tmp_path: Path) -> None:
    norms = [(1.0, 0.0), (0.25, 1.0), (1.0, 1.0), (0.0, 1.0)]
    world = made_world(tmp_path, {("r", PAIRED): by_axis([0, 1, 2, 3], norms, [3])})
    norm = rules.by_norm(world, "r", PAIRED)
    # Relative norms are 0, 0.875 and 0.5.
    assert norm.kinds(0.3).tolist() == [FIRST, SECOND, COMMON, DEAD]
    assert norm.kinds(0.1).tolist() == [FIRST, COMMON, COMMON, DEAD]
    # The second writes 0.29 and 1.18 times what is there: of an equal part the first source has 0.68.
    used = rules.by_users(world, "r", PAIRED)
    assert used.kinds(0.2).tolist() == [FIRST, COMMON, COMMON, DEAD]
    assert used.kinds(0.69).tolist() == [FIRST, SECOND, COMMON, DEAD]
    wanted = np.zeros((3, 8))
    wanted[[0, 1, 1, 2, 2], [0, 1, 5, 2, 6]] = [1, 0.25, 1, 1, 1]
    np.testing.assert_allclose(used.found(0.2).directions, wanted)
    assert used.found(0.2).kind.tolist() == [FIRST, COMMON, COMMON]


def test_users_of_a_panel_are_every_source_of_a_kind(tmp_path: Path) -> None:
    norms = [(1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 1.0), (1.0, 1.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0)]
    world = made_world(tmp_path, {("r", (0, 1, 2, 3)): by_axis([0, 1, 2, 3], norms, [])}, 4)
    found = rules.by_users(world, "r", (0, 1, 2, 3))
    assert found.kinds(0.2).tolist() == [FIRST, SECOND, COMMON, COMMON]


def test_the_rule_of_blocks(tmp_path: Path) -> None:
    norms = [(1.0, 0.0), (1.0, 1.0), (1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 1.0)]
    dictionary = by_axis([0, 1, 2, 3, 2, 3], norms, [3], exclusive=2)
    found = rules.by_block(made_world(tmp_path, {("r", PAIRED): dictionary}), "r", PAIRED)
    assert found.kinds(0.0).tolist() == [COMMON, COMMON, FIRST, DEAD, SECOND, SECOND]


def test_a_vote_over_pairs_knows_a_kinds_own_from_a_models_own(tmp_path: Path) -> None:
    """Axes 0 and 1 are the kinds' own, 2 is in every source, 3 in the first alone."""
    has = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]])
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    made = {}
    for pair in pairs:
        norms = has[:, pair]
        absent = np.flatnonzero(~norms.any(1)).tolist()
        # What is dead needs a length all the same.
        sizes = [tuple(map(float, row)) if row.any() else (1.0, 1.0) for row in norms]
        made["r", pair] = by_axis([0, 1, 2, 3], sizes, absent)
    world = made_world(tmp_path, made, 4)
    assert world.pairs() == pairs
    found = rules.by_vote(rules.by_norm)(world, "r")
    assert found.kinds(0.3).tolist() == [FIRST, COMMON, COMMON, SECOND]  # as the pairs have them
    wanted = np.zeros((4, 4, 4))  # [group, source, axis]: each source is in three pairs
    for group, axis in enumerate((0, 2, 3, 1)):
        wanted[group, :, axis] = 3 * has[axis]
    np.testing.assert_allclose(found.directions, wanted.reshape(4, 16), atol=1e-6)


def test_a_vote_over_saes_goes_by_what_correlates(tmp_path: Path) -> None:
    """Sources have the axes in orders of their own; the features of each are by the axes of the world."""
    orders = [[0, 1, 2, 3], [2, 0, 3, 1], [1, 0, 3, 2], [3, 2, 1, 0]]
    axes = [
        [0, 2, 3],
        [0, 2],
        [1, 2],
        [1, 2],
    ]  # 0 and 1 the kinds' own, 2 common, 3 of one SAE alone
    saes = {
        ("r", (source,)): by_axis([order.index(a) for a in mine], [(2.0,)] * len(mine), [])
        for source, (order, mine) in enumerate(zip(orders, axes, strict=True))
    }
    found = rules.by_match(world_of_rows(tmp_path, saes, orders), "r")
    assert found.kinds(0.7).tolist() == [FIRST, COMMON, DEAD, SECOND]
    assert found.kinds(-1.0).tolist() == [COMMON, COMMON, DEAD, COMMON]  # all is shared
    assert found.kinds(1.1).tolist() == [COMMON, COMMON, DEAD, COMMON]  # nothing is anywhere
    wanted = np.zeros((4, 16))
    for source, order in enumerate(orders):
        for group, axis in enumerate((0, 2, 3, 1)):
            wanted[group, 4 * source + order.index(axis)] = 2.0 * (axis in axes[source])
    np.testing.assert_allclose(found.directions, wanted, atol=1e-6)


def test_the_graded_rule_sees_what_is_written_more(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    norms = np.exp(0.01 * random.normal(size=(4, 8)))
    norms[0, :4] *= 0.5
    norms[1, 4:] *= 0.5
    world = made_world(
        tmp_path, {("r", tuple(range(8))): by_axis([0, 1, 2, 3], norms.tolist(), [])}, 8
    )
    found = rules.by_t(world, "r", tuple(range(8)))
    assert found.kinds(0.1).tolist() == [SECOND, FIRST, COMMON, COMMON]
    assert found.kinds(-1.0).tolist() == [COMMON] * 4
    # By the strict rule nothing is anyone's: half of a feature is much.
    strict = rules.by_users(world, "r", tuple(range(8)))
    assert strict.kinds(0.2).tolist() == [COMMON] * 4


def test_the_graded_rule_says_nothing_of_a_source_in_which_nothing_is_explained(
    tmp_path: Path,
) -> None:
    norms = [(1.0, 1.0, 1.0, 0.0)] * 4
    world = made_world(tmp_path, {("r", (0, 1, 2, 3)): by_axis([0, 1, 2, 3], norms, [3])}, 4)
    found = rules.by_t(world, "r", (0, 1, 2, 3))
    assert found.kinds(1.0).tolist() == [COMMON, COMMON, COMMON, DEAD]


# --- an easy world --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def easy(tmp_path_factory) -> World:
    torch.set_num_threads(1)
    wanted = recipes(OURS, PAPER, SETTINGS)
    # With features to spare nothing sends what is exclusive into its block.
    wanted["dfc"] |= {"features": 20, "exclusive": 3}
    truth = grid.made(SETTINGS["base"], SETTINGS, 0)
    return World(truth, SETTINGS["rows"], wanted, 0, tmp_path_factory.mktemp("easy"))


def test_an_easy_world_is_as_it_was_ordered(easy: World) -> None:
    has = [tuple(map(bool, part)) for part in np.array([p.any(1) for p in easy.truth.parts()]).T]
    assert has.count((True, True, False, False)) == has.count((False, False, True, True)) == 3
    assert has.count((True,) * 4) == 14
    assert easy.truth.owner.tolist() == [COMMON] * 14 + [FIRST] * 3 + [SECOND] * 3
    assert AlignedRows(easy.fit).count == 6000
    assert easy.rows((0, 2)).count == 2000
    recipe = recipes(OURS, PAPER, SETTINGS)
    keys = ("k", "features", "rows", "batch", "lr")
    assert {tuple(r[key] for key in keys) for r in recipe.values()} == {(2, 30, 38_400, 256, 0.02)}


def test_values_are_those_that_a_dictionary_gives_rows_in_order(easy: World) -> None:
    dictionary, found = easy.dictionary("default", (0, 2)), easy.values("default", (0, 2))
    start = 0
    for sources in easy.rows((0, 2)).in_order(700):
        rows = dictionary.standardise(sources)
        (row, feature), values = dictionary.encode(rows)
        wanted = torch.zeros(len(rows), dictionary.shape.features)
        wanted[row, feature] = values.float()
        np.testing.assert_allclose(found[start : start + len(rows)], wanted, rtol=1e-4, atol=1e-4)
        start += len(rows)
    assert start == len(found) == 2000
    assert easy.columns() == [slice(0, 16), slice(16, 32), slice(32, 48), slice(48, 64)]


# What a method must reach there; the paper's recipe wants longer fits, those of dfc by six seeds reach 0.33
# to 0.67. Of 2 + 2 models there are two other labellings, too few for the graded rule.
REACHES = dict.fromkeys(METHODS, 0.8) | {"dfc": 0.3, "panel": 0.7, "paper": 0.6}
del REACHES["graded"]


def reaches(world: World, name: str, least: float) -> None:
    method = METHODS[name]
    found = method.judged(world).found(method.thresholds[0])
    right = score(found, world.truth)
    print(name, {key: right[key] for key in (*grid.COUNTS, "precision", "recall", "f1")})
    assert right["f1"] >= least
    # Broken by hand: kinds exchanged, directions at random.
    other = {FIRST: SECOND, SECOND: FIRST, COMMON: COMMON}
    exchanged = Found(found.directions, np.array([other[kind] for kind in found.kind]))
    assert score(exchanged, world.truth)["f1"] <= right["f1"] / 2
    random = np.random.default_rng(0).normal(size=found.directions.shape)
    assert score(Found(random, found.kind), world.truth)["f1"] <= right["f1"] / 2


@pytest.mark.parametrize("name", REACHES)
def test_every_method_finds_what_is_easy(easy: World, name: str) -> None:
    reaches(easy, name, REACHES[name])


def test_the_graded_rule_finds_in_eight_models_what_the_strict_one_cannot(tmp_path: Path) -> None:
    settings = SETTINGS | {"models": 4}
    base = settings["base"] | {"strength": 3, "variation": 0.1}
    world = World(
        grid.made(base, settings, 0), settings["rows"], recipes(OURS, PAPER, settings), 0, tmp_path
    )
    reaches(world, "graded", 0.8)
    method = METHODS["panel"]
    strict = method.judged(world).found(method.thresholds[0])
    assert score(strict, world.truth)["recovered"] == 0
