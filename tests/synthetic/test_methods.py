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
from moediff.synthetic import grid, methods
from moediff.synthetic.methods import COMMON, DEAD, METHODS, World, apply, recipes
from moediff.synthetic.planted import Planted, owned
from moediff.synthetic.scoring import FIRST, SECOND, Found, score

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
    truth = Planted([rows[:, o] for o in orders], directions, owned(len(orders), everyone=4))
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
    norm = methods.by_norm(world, "r", PAIRED)
    # Relative norms are 0, 0.875 and 0.5.
    assert norm.kinds(0.3).tolist() == [FIRST, SECOND, COMMON, DEAD]
    assert norm.kinds(0.1).tolist() == [FIRST, COMMON, COMMON, DEAD]
    # The second writes 0.29 and 1.18 times what is there: of an equal part the first source has 0.68.
    used = methods.by_users(world, "r", PAIRED)
    assert used.kinds(0.2).tolist() == [FIRST, COMMON, COMMON, DEAD]
    assert used.kinds(0.69).tolist() == [FIRST, SECOND, COMMON, DEAD]
    wanted = np.zeros((3, 8))
    wanted[[0, 1, 1, 2, 2], [0, 1, 5, 2, 6]] = [1, 0.25, 1, 1, 1]
    np.testing.assert_allclose(used.found(0.2).directions, wanted)
    assert used.found(0.2).kind.tolist() == [FIRST, COMMON, COMMON]


def test_users_of_a_panel_are_every_source_of_a_kind(tmp_path: Path) -> None:
    norms = [(1.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 1.0), (1.0, 1.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0)]
    world = made_world(tmp_path, {("r", (0, 1, 2, 3)): by_axis([0, 1, 2, 3], norms, [])}, 4)
    found = methods.by_users(world, "r", (0, 1, 2, 3))
    assert found.kinds(0.2).tolist() == [FIRST, SECOND, COMMON, COMMON]


def test_the_rule_of_blocks(tmp_path: Path) -> None:
    norms = [(1.0, 0.0), (1.0, 1.0), (1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, 1.0)]
    dictionary = by_axis([0, 1, 2, 3, 2, 3], norms, [3], exclusive=2)
    found = methods.by_block(made_world(tmp_path, {("r", PAIRED): dictionary}), "r", PAIRED)
    assert found.kinds(0.0).tolist() == [COMMON, COMMON, FIRST, DEAD, SECOND, SECOND]


def test_the_rule_of_matches(tmp_path: Path) -> None:
    saes = {
        ("r", (0,)): by_axis([0, 1, 2], [(1.0,)] * 3, [2]),
        ("r", (1,)): by_axis([2, 3], [(2.0,)] * 2, []),  # axes 3 and 1 of the first source
    }
    found = methods.by_match(
        world_of_rows(tmp_path, saes, [[0, 1, 2, 3], [2, 0, 3, 1]]), "r", PAIRED
    )
    assert found.kinds(0.7).tolist() == [FIRST, COMMON, DEAD, SECOND, COMMON]
    assert found.kinds(1.1).tolist() == [FIRST, FIRST, DEAD, SECOND, SECOND]
    assert found.kinds(-1.0).tolist() == [COMMON, COMMON, DEAD, COMMON, COMMON]
    wanted = np.zeros((5, 8))
    wanted[[0, 1, 2, 3, 4], [0, 1, 2, 6, 7]] = [1, 1, 1, 2, 2]
    np.testing.assert_allclose(found.directions, wanted)


# --- an easy world --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def easy(tmp_path_factory) -> World:
    torch.set_num_threads(1)
    wanted = recipes(OURS, PAPER, SETTINGS)
    wanted["paper"]["lr"] = None  # its own is for a run of 40,000 steps
    # With features to spare nothing sends what is exclusive into its block.
    wanted["dfc"] |= {"features": 20, "exclusive": 3}
    truth = grid.made(SETTINGS["base"], SETTINGS, 0)
    return World(truth, SETTINGS["rows"], wanted, 0, tmp_path_factory.mktemp("easy"))


def test_an_easy_world_is_as_it_was_ordered(easy: World) -> None:
    owners = easy.truth.owners.tolist()
    assert owners.count([True, True, False, False]) == owners.count([False, False, True, True]) == 3
    assert owners.count([True] * 4) == 14
    assert AlignedRows(easy.fit).count == 6000
    assert easy.rows((0, 2)).count == 2000
    recipe = recipes(OURS, PAPER, SETTINGS)
    assert {(r["k"], r["features"], r["rows"]) for r in recipe.values()} == {(2, 30, 64_000)}
    assert (recipe["paper"]["lr"], recipe["default"]["lr"]) == (1e-3, None)


# What a method must reach there.
# Of six seeds the fits of dfc reach 0.33 to 0.67 (0.53 in the mean): its bound is below them.
REACHES = dict.fromkeys(METHODS, 0.8) | {"dfc": 0.3, "matched-saes": 0.7}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_what_is_easy(easy: World, name: str) -> None:
    method = METHODS[name]
    judged, truth = apply(method, easy)
    found = judged.found(method.thresholds[0])
    right = score(found, truth)
    print(name, {key: right[key] for key in (*grid.COUNTS, "precision", "recall", "f1")})
    assert right["f1"] >= REACHES[name]
    # Broken by hand: kinds exchanged, directions at random.
    other = {FIRST: SECOND, SECOND: FIRST, COMMON: COMMON}
    exchanged = Found(found.directions, np.array([other[kind] for kind in found.kind]))
    assert score(exchanged, truth)["f1"] <= right["f1"] / 2
    random = np.random.default_rng(0).normal(size=found.directions.shape)
    assert score(Found(random, found.kind), truth)["f1"] <= right["f1"] / 2
