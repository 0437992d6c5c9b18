"""Worlds by factor and level, methods scored on each, thresholds chosen on half of the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from moediff.synthetic.firing import Law
from moediff.synthetic.methods import METHODS
from moediff.synthetic.planted import COMMON, Planted, graded, owned, owners, planted, varied
from moediff.synthetic.scoring import rates, score
from moediff.synthetic.world import World

CHOOSE, SCORE = "choose", "score"  # parts of the seeds; thresholds are chosen on the first alone
ALONE = "alone"  # the level of a strength without end

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
        {"factor": factor, "level": ALONE if level is None else str(level),
         "base": level == settings["base"][factor],
         "part": part, "seed": seed, "world": {**settings["base"], factor: level}}
        for factor, levels in settings["factors"].items()
        for level in levels
        for part in (CHOOSE, SCORE)
        for seed in settings["seeds"][part]
    ]  # fmt: skip


def made(world: Mapping[str, Any], settings: Mapping[str, Any], seed: int) -> Planted:
    """The rows of a world: those to fit on, then those to measure on.

    Every model has every feature but the share `unique`, half of which is each kind's own: in `penetrance`
    of the kind's models it explains `strength` times as much as elsewhere (`planted.graded`); at a strength
    of 1 nothing is planted. What a feature explains differs from model to model, whatever their kind, by a
    normal logarithm of standard deviation `variation`. The second kind's rows are `scale` times as large.
    Features fire by `zipf`, `correlation` and `children` (`firing.Law`).
    """
    models, features = settings["models"], settings["features"]
    own = round(features * world["unique"] / 2)
    has = owned(2 * models, everyone=features - 2 * own, first=own, second=own)
    owner = owners(has)
    if world["strength"] == 1:
        owner[:] = COMMON
    return planted(
        settings["rows"] + settings["validation"],
        (settings["width"],) * (2 * models),
        varied(graded(has, world["strength"], world["penetrance"]), world["variation"], seed),
        settings["active"],
        seed,
        missed=world["missed"],
        noise=world["noise"],
        shared=world["basis"] == "shared",
        scales=[1.0] * models + [float(world["scale"])] * models,
        law=Law(**{name: float(world[name]) for name in ("zipf", "correlation", "children")}),
        owner=owner,
    )


def scores(world: World) -> list[dict[str, Any]]:
    """One row a method and threshold: what `score` finds in a world."""
    rows = []
    for name, method in METHODS.items():
        judged = method.judged(world)
        for number, threshold in enumerate(method.thresholds):
            about = {"method": name, "threshold": threshold, "in_use": number == 0}
            rows.append(about | score(judged.found(threshold), world.truth))
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """One row a cell, method and threshold."""
    return pl.DataFrame(rows, schema=COLUMNS)


def once(found: pl.DataFrame, part: str) -> pl.DataFrame:
    """Rows of a part of the seeds, those of the base world once and not under every factor."""
    name = pl.when("base").then(pl.lit("base")).otherwise(pl.concat_str("factor", "level"))
    rows = found.filter(pl.col("part") == part).with_columns(name.alias("world"))
    return rows.unique(["world", "seed", "method", "threshold"], maintain_order=True)


def pooled(found: pl.DataFrame, part: str) -> pl.DataFrame:
    """Rates of each method and threshold over all worlds of a part of the seeds, as ratios of sums.

    The base world counts once. Where nothing is planted what is attributed still counts, as wrong.
    """
    by = ["method", "threshold", "in_use"]
    sums = once(found, part).group_by(by, maintain_order=True).agg(pl.col(COUNTS).sum())
    rows = [row | rates(row) for row in sums.iter_rows(named=True)]
    return pl.DataFrame(rows, schema={name: COLUMNS[name] for name in (*by, *COUNTS, *RATES)})


def false_features(found: pl.DataFrame) -> dict[tuple[str, float], float]:
    """Mean number of features that each method and threshold calls one kind's own in a world where nothing
    is, of the seeds for scoring; empty without such worlds."""
    nothing = once(found, SCORE).filter(pl.col("planted") == 0)
    means = nothing.group_by("method", "threshold").agg(pl.col("attributed").mean())
    return {(method, threshold): mean for method, threshold, mean in means.iter_rows()}


def chosen(found: pl.DataFrame) -> list[dict[str, Any]]:
    """Of each method: the threshold of largest pooled F1 on the seeds for choosing, the one in use where it
    is as good, and what both are on the seeds for scoring, with their `false_features`."""
    trial, result, false = pooled(found, CHOOSE), pooled(found, SCORE), false_features(found)
    rows = []
    for (name,), own in trial.group_by("method", maintain_order=True):
        best = own.sort("f1", "in_use", descending=True, maintain_order=True).row(0, named=True)
        (used,) = own.filter("in_use")["threshold"]
        scored = {
            row["threshold"]: {key: row[key] for key in RATES}
            | {"false_features": false.get((name, row["threshold"]))}
            for row in result.filter(method=name).iter_rows(named=True)
        }
        rows.append(
            {"method": name, "chosen": best["threshold"], "in_use": used, "f1_choosing": best["f1"],
             "scored": scored[best["threshold"]], "scored_in_use": scored[used]}
        )  # fmt: skip
    return rows


def by_level(found: pl.DataFrame, thresholds: Mapping[str, float]) -> list[dict[str, Any]]:
    """Means over the seeds for scoring, of each method at its threshold, factor and level."""
    at = pl.col("method").replace_strict(thresholds, return_dtype=pl.Float64)
    kept = found.filter(pl.col("part") == SCORE, pl.col("threshold") == at)
    groups = kept.group_by("factor", "level", "method", maintain_order=True)
    return groups.agg(pl.col(RATES).mean()).to_dicts()
