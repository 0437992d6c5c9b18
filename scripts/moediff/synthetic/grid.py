"""Worlds by factor and level, methods scored on each, thresholds chosen on half of the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from moediff.synthetic.methods import METHODS, World, apply
from moediff.synthetic.planted import Planted, owned, planted
from moediff.synthetic.scoring import rates, score

CHOOSE, SCORE = "choose", "score"  # parts of the seeds; thresholds are chosen on the first alone

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
