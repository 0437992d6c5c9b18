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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from moediff.deletion import deleted_alone
from moediff.dictionary import EXCLUSIVE, Dictionary
from moediff.evaluation import coded
from moediff.features import classify, relative_norm
from moediff.fitting import fit
from moediff.panel import users
from moediff.planted import Planted, owned, planted, stored
from moediff.recurrence import MATCH, best_matches
from moediff.store import AlignedRows

FIRST, SECOND = KINDS = ("first", "second")
COMMON = "common"  # live, and neither kind's alone
DEAD = "dead"
NEAR = 0.7
BATCH = 1024  # rows read at once
MORE = 1.5  # features of a dictionary over those planted
CHOOSE, SCORE = "choose", "score"  # parts of the seeds; thresholds are chosen on the first alone
EXCLUSIVE_SHARE = 0.1  # of a dictionary's features, for each source: what the base world has
L1_WEIGHT = 0.1  # brings the base world's L0 near the number of active features
CPU = torch.device("cpu")  # worlds are small
Sources = tuple[int, ...]


# --- scoring ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """The live features that a method found."""

    directions: np.ndarray  # [F, D], zeros in a source where a feature has no decoder
    kind: np.ndarray  # [F] of str: FIRST, SECOND or COMMON


def nearness(found: Found, truth: Planted, side: np.ndarray) -> np.ndarray:
    """Absolute cosine [F, P] of found and planted directions, a mean over the sources `side` [S]; 0 where
    either has none."""
    ends = np.cumsum([part.shape[1] for part in truth.parts()])[:-1]
    pairs = zip(np.split(found.directions, ends, axis=1), truth.parts(), side, strict=True)
    return np.mean([np.abs(_unit(own) @ _unit(part).T) for own, part, in_it in pairs if in_it], 0)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def first_half(sources: int) -> np.ndarray:
    """Which sources [S] are of the first kind."""
    return np.arange(sources) < sources / 2


def score(found: Found, truth: Planted) -> dict[str, Any]:
    """Counts and rates of a method's attributions in a world.

    `reached`: planted features of one kind alone that any live feature comes near, whatever it was
    attributed to. `false_share`: attributed and not right, of all live features. None where a ratio has
    nothing below it; F1 is then 0 if anything is planted, else None.
    """
    half = first_half(truth.owners.shape[1])
    counts = dict.fromkeys(("attributed", "right", "planted", "recovered", "reached"), 0)
    for kind, side in zip(KINDS, (half, ~half), strict=True):
        own = (truth.owners == side).all(1)  # [P]
        mine = found.kind == kind  # [F]
        near = nearness(found, truth, side)
        counts["attributed"] += int(mine.sum())
        counts["planted"] += int(own.sum())
        best = near[mine].argmax(1)
        counts["right"] += int((own[best] & (near[mine].max(1, initial=0) > 0)).sum())
        counts["recovered"] += int((near[mine][:, own].max(0, initial=0) >= NEAR).sum())
        counts["reached"] += int((near[:, own].max(0, initial=0) >= NEAR).sum())
    return rates(counts | {"live": len(found.kind)})


def rates(counts: Mapping[str, int]) -> dict[str, Any]:
    """Counts as `score` has them, of one world or summed over several, and their ratios."""
    precision = _ratio(counts["right"], counts["attributed"])
    recall = _ratio(counts["recovered"], counts["planted"])
    f1 = None
    if recall is not None:
        both = (precision or 0) + recall
        f1 = 2 * (precision or 0) * recall / both if both else 0.0
    wrong = counts["attributed"] - counts["right"]
    false_share = _ratio(wrong, counts["live"])
    return dict(counts) | {
        "precision": precision, "recall": recall, "f1": f1, "false_share": false_share
    }  # fmt: skip


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# --- a world and its dictionaries ---------------------------------------------------------------


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
        "features": round(MORE * settings["features"]),
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


# --- rules: world, recipe, sources -> decoders, and kinds by threshold ---------------------------


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
    """Decoders [feature, D] of all its sources."""
    return torch.cat(dictionary.decoders(), dim=1).double().numpy()


def firings(dictionary: Dictionary, data: AlignedRows) -> np.ndarray:
    """Rows on which each feature fires, by the thresholds."""
    found = torch.zeros(dictionary.shape.features, dtype=torch.int64)
    for _, (_, features), _ in coded(dictionary, data, BATCH, CPU, "firings"):
        found += torch.bincount(features, minlength=len(found))
    return found.numpy()


# --- methods ------------------------------------------------------------------------------------


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


# --- the grid -----------------------------------------------------------------------------------

COUNTS = ("attributed", "right", "planted", "recovered", "reached", "live")
RATES = ("precision", "recall", "f1", "false_share")
COLUMNS = {
    "factor": pl.String, "level": pl.String, "base": pl.Boolean, "part": pl.String,
    "seed": pl.Int64, "method": pl.String, "threshold": pl.Float64, "in_use": pl.Boolean,
    **dict.fromkeys(COUNTS, pl.Int64), **dict.fromkeys(RATES, pl.Float64),
}  # fmt: skip


def cells(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a factor, level and seed, with its `world`: each leaves the base world in one factor.

    The base world stands under every factor; `base` says so, lest it be counted as often.
    """
    return [
        {"factor": factor, "level": str(level), "base": level == settings["base"][factor],
         "part": part, "seed": seed, "world": {**settings["base"], factor: level}}
        for factor, levels in settings["factors"].items()
        for level in levels
        for part in (CHOOSE, SCORE)
        for seed in settings["seeds"][part]
    ]  # fmt: skip


def made(world: Mapping[str, Any], settings: Mapping[str, Any], seed: int) -> Planted:
    """The rows of a world: those to fit on, then those to measure on.

    `models` of each kind have every feature but the share `unique`, half of which each kind has alone;
    the second kind's rows are `scale` times as large.
    """
    models, features = settings["models"], settings["features"]
    own = round(features * world["unique"] / 2)
    return planted(
        settings["rows"] + settings["validation"],
        (settings["width"],) * (2 * models),
        owned(2 * models, everyone=features - 2 * own, first=own, second=own),
        settings["active"],
        seed,
        missed=world["missed"],
        noise=world["noise"],
        shared=world["basis"] == "shared",
        scales=[1.0] * models + [float(world["scale"])] * models,
    )


def scores(world: World) -> list[dict[str, Any]]:
    """One row a method and threshold: what `score` finds in a world."""
    rows = []
    for name, method in METHODS.items():
        judged, truth = apply(method, world)
        for number, threshold in enumerate(method.thresholds):
            about = {"method": name, "threshold": threshold, "in_use": number == 0}
            rows.append(about | score(judged.found(threshold), truth))
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """One row a cell, method and threshold."""
    return pl.DataFrame(rows, schema=COLUMNS)


def pooled(found: pl.DataFrame, part: str) -> pl.DataFrame:
    """Rates of each method and threshold over all worlds of a part of the seeds, as ratios of sums.

    The base world counts once. Where nothing is planted what is attributed still counts, as wrong.
    """
    name = pl.when("base").then(pl.lit("base")).otherwise(pl.concat_str("factor", "level"))
    once = (
        found.filter(pl.col("part") == part)
        .with_columns(name.alias("world"))
        .unique(["world", "seed", "method", "threshold"], maintain_order=True)
    )
    by = ["method", "threshold", "in_use"]
    sums = once.group_by(by, maintain_order=True).agg(pl.col(COUNTS).sum())
    rows = [row | rates(row) for row in sums.iter_rows(named=True)]
    return pl.DataFrame(rows, schema={name: COLUMNS[name] for name in (*by, *COUNTS, *RATES)})


def chosen(found: pl.DataFrame) -> list[dict[str, Any]]:
    """Of each method: the threshold of largest pooled F1 on the seeds for choosing, the one in use where it
    is as good, and what both are on the seeds for scoring."""
    trial, result = pooled(found, CHOOSE), pooled(found, SCORE)
    rows = []
    for (name,), own in trial.group_by("method", maintain_order=True):
        best = own.sort("f1", "in_use", descending=True, maintain_order=True).row(0, named=True)
        scored = {row["threshold"]: row for row in result.filter(method=name).iter_rows(named=True)}
        (used,) = own.filter("in_use")["threshold"]
        rows.append(
            {"method": name, "chosen": best["threshold"], "in_use": used, "f1_choosing": best["f1"],
             "scored": {key: scored[best["threshold"]][key] for key in RATES},
             "scored_in_use": {key: scored[used][key] for key in RATES}}
        )  # fmt: skip
    return rows


def by_level(found: pl.DataFrame, thresholds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Means over the seeds for scoring, of each method at its threshold, factor and level."""
    at = pl.col("method").replace_strict(thresholds, return_dtype=pl.Float64)
    kept = found.filter(pl.col("part") == SCORE, pl.col("threshold") == at)
    groups = kept.group_by("factor", "level", "method", maintain_order=True)
    return groups.agg(pl.col(RATES).mean()).to_dicts()
