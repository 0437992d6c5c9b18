"""Ways to find what models of one kind have and models of another lack, scored where the truth is known.

A method fits dictionaries on planted rows and says of every live feature whether it is the first kind's
alone, the second kind's alone, or neither. Two kinds are the two halves of a world's sources; a pair is
the first source of either. What is scored is the attribution (our definitions):

    right      a feature attributed to one kind alone whose nearest planted feature, there, is one that
               this kind alone has
    recovered  a planted feature of one kind alone that some feature attributed to that kind alone comes
               as near as NEAR
    precision = right / attributed        recall = recovered / planted        F1 their harmonic mean

Nearness is the absolute cosine of decoder and planted direction, a mean over the sources of the kind.

    F  live features      P  planted features      S  sources      D  summed widths
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moediff.activations.rows import AlignedRows
from moediff.analysis.classes import classify, relative_norm
from moediff.analysis.deletion import deleted_alone
from moediff.analysis.evaluation import coded
from moediff.analysis.matching import MATCH, best_matches
from moediff.analysis.panel import users
from moediff.dictionaries.blocks import EXCLUSIVE
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.fitting import fit
from moediff.synthetic.planted import Planted, stored
from moediff.synthetic.scoring import FIRST, KINDS, SECOND, Found, first_half

COMMON = "common"  # live, and neither kind's alone
DEAD = "dead"
BATCH = 1024  # rows read at once
# A dictionary has this many features for each planted one: room for some that stay dead or split.
FEATURES_PER_PLANTED = 1.5
EXCLUSIVE_SHARE = 0.1  # of a dictionary's features, for each source: what the base world has
L1_WEIGHT = 0.1  # brings the base world's L0 near the number of active features
CPU = torch.device("cpu")  # worlds are small
Sources = tuple[int, ...]


class World:
    """Planted rows on disk, cut into fit and validation, and dictionaries of them, each fitted once."""

    def __init__(
        self, truth: Planted, fit_rows: int, recipes: Mapping[str, Any], seed: int, folder: Path
    ) -> None:
        """`recipes` as of `recipes`; `folder` takes rows and the checkpoints of fits."""
        self.truth, self.recipes, self.seed, self.folder = truth, recipes, seed, folder
        self.fit = stored([rows[:fit_rows] for rows in truth.rows], folder / "fit")
        self.validation = stored([rows[fit_rows:] for rows in truth.rows], folder / "validation")
        self._fitted: dict[tuple[str, Sources], Dictionary] = {}

    def dictionary(self, recipe: str, sources: Sources) -> Dictionary:
        """The dictionary of a recipe over some of the sources."""
        if (recipe, sources) not in self._fitted:
            data = AlignedRows([self.fit[s] for s in sources])
            state = self.folder / "-".join([recipe, *map(str, sources)])
            dictionary, _ = fit(data, self.recipes[recipe], self.seed, state, CPU)
            self._fitted[recipe, sources] = dictionary
        return self._fitted[recipe, sources]

    def rows(self, sources: Sources) -> AlignedRows:
        """Validation rows of some of the sources."""
        return AlignedRows([self.validation[s] for s in sources])


def recipes(
    ours: Mapping[str, Any], paper: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The full recipe of every dictionary that METHODS need.

    `ours` is our default recipe and `paper` the preset of 2603.05805, both with every key. They keep their
    rates; k, features, rows and batch are equal for all: `settings` has `active`, `features`, `steps` and
    `batch`.
    """
    equal = {
        "k": settings["active"],
        "features": round(FEATURES_PER_PLANTED * settings["features"]),
        "rows": settings["steps"] * settings["batch"],
        "batch": settings["batch"],
        "screen": False,  # worlds are too small for it
    }
    ours = {**ours, **equal}
    l1 = {"l1": {"weight": L1_WEIGHT, "tied": 1.0, "ramp": 0.05}}
    return {
        "default": ours,
        # Half of one model's width, as published.
        "paper": {**paper, **equal, "aux_k": max(1, settings["width"] // 2)},
        # Dedicated features (2602.11729): what both sources have is free.
        "dfc": ours | {"tied": 0.0, "exclusive": EXCLUSIVE_SHARE},
        "l1": ours | {"tied": 0.0, "select": "relu", "penalties": l1, "aux_weight": 0.0},
    }


@dataclass(frozen=True)
class Judged:
    """All features of a method's dictionaries, and what they are by a threshold."""

    directions: np.ndarray  # [feature, D]
    kinds: Callable[[float], np.ndarray]  # threshold -> [feature] of FIRST, SECOND, COMMON or DEAD

    def found(self, threshold: float) -> Found:
        """The live ones, attributed by a threshold."""
        kinds = self.kinds(threshold)
        live = kinds != DEAD
        return Found(self.directions[live], kinds[live])


Rule = Callable[[World, str, Sources], Judged]


def by_norm(world: World, recipe: str, sources: Sources) -> Judged:
    """A pair's free features by relative norm: below the threshold, or above 1 less it."""
    dictionary = world.dictionary(recipe, sources)
    relative = relative_norm(dictionary.norms().double().numpy())
    fired, blocks = firings(dictionary, world.rows(sources)), dictionary.shape.blocks()
    names = {"A-only": FIRST, "B-only": SECOND, "dead": DEAD}

    def kinds(threshold: float) -> np.ndarray:
        found = classify(blocks, fired, relative, 1, (threshold, 1 - threshold))
        return np.array([names.get(name, COMMON) for name in found])

    return Judged(_joint(dictionary), kinds)


def by_block(world: World, recipe: str, sources: Sources) -> Judged:
    """A pair's exclusive features; a threshold changes nothing."""
    dictionary = world.dictionary(recipe, sources)
    names = {f"{EXCLUSIVE}-{source}": kind for source, kind in enumerate(KINDS)}
    found = np.array([names.get(block, COMMON) for block in dictionary.shape.blocks()])
    alive = firings(dictionary, world.rows(sources)) > 0
    return Judged(_joint(dictionary), lambda _: np.where(alive, found, DEAD))


def by_users(world: World, recipe: str, sources: Sources) -> Judged:
    """Features that every source of one kind uses and none of the other; the threshold is the floor."""
    dictionary, rows = world.dictionary(recipe, sources), world.rows(sources)
    alive = firings(dictionary, rows) > 0
    alone = deleted_alone(dictionary, rows, BATCH, CPU)
    half = first_half(len(sources))

    def kinds(threshold: float) -> np.ndarray:
        used = users(alone, alive, threshold)
        sides = [~alive, (used == half).all(1), (used == ~half).all(1)]
        return np.select(sides, [DEAD, FIRST, SECOND], COMMON)

    return Judged(_joint(dictionary), kinds)


def by_match(world: World, recipe: str, sources: Sources) -> Judged:
    """Features of two SAEs; one is its source's alone where none of the other correlates with it as much as
    the threshold says."""
    saes = [world.dictionary(recipe, (source,)) for source in sources]
    best, fired = [], []
    for place, source in enumerate(sources):
        both = world.rows((source, sources[1 - place]))
        (match,) = best_matches(saes[place], [saes[1 - place]], both, BATCH, CPU)
        best.append(match.correlation)
        fired.append(firings(saes[place], world.rows((source,))))
    parts = [_joint(sae) for sae in saes]
    directions = np.concatenate(
        [np.pad(parts[0], ((0, 0), (0, parts[1].shape[1]))),
         np.pad(parts[1], ((0, 0), (parts[0].shape[1], 0)))]
    )  # fmt: skip
    own = np.repeat(KINDS, [len(part) for part in parts])
    correlation, alive = np.concatenate(best), np.concatenate(fired) > 0

    def kinds(threshold: float) -> np.ndarray:
        return np.select([~alive, correlation >= threshold], [DEAD, COMMON], own)

    return Judged(directions, kinds)


def _joint(dictionary: Dictionary) -> np.ndarray:
    """Decoders [feature, D] of all its sources, in float64."""
    return torch.cat(in_float64(dictionary).decoders(), dim=1).numpy()


def firings(dictionary: Dictionary, data: AlignedRows) -> np.ndarray:
    """Rows on which each feature fires, by the thresholds."""
    found = torch.zeros(dictionary.shape.features, dtype=torch.int64)
    for _, (_, features), _ in coded(dictionary, data, BATCH, CPU, "firings"):
        found += torch.bincount(features, minlength=len(found))
    return found.numpy()


@dataclass(frozen=True)
class Method:
    """A recipe, a rule for its dictionaries, and thresholds of the rule, the one in use first."""

    recipe: str
    rule: Rule
    thresholds: tuple[float, ...]
    panel: bool = False  # over all sources; else over the first of either kind


BOUNDS, USED, MATCHED = (0.3, 0.2, 0.1, 0.05), (0.2, 0.1, 0.3), (MATCH, 0.5, 0.3, 0.2)
METHODS = {
    "paper": Method("paper", by_norm, BOUNDS),
    "default": Method("default", by_norm, BOUNDS),
    "dfc": Method("dfc", by_block, (0.0,)),
    "l1": Method("l1", by_norm, BOUNDS),
    "matched-saes": Method("default", by_match, MATCHED),
    "default/users": Method("default", by_users, USED),
    "panel": Method("default", by_users, USED, panel=True),
}


def apply(method: Method, world: World) -> tuple[Judged, Planted]:
    """What a method says in a world, and the world as its sources see it."""
    count = len(world.truth.rows)
    sources = tuple(range(count)) if method.panel else (0, count // 2)
    return method.rule(world, method.recipe, sources), world.truth.of(sources)
