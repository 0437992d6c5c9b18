"""Features of each class held against all others: what their experts are, and what they lose.

The classes of a crosscoder of an MoE and a dense model say which kind a feature is of. Features that fire
rarely differ from others in all that is counted, so that classes are shuffled among features that fire about
as often (our definition), and what counts is what lies outside of that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from moediff.core.resampling import exact_p
from moediff.core.terms import ABOVE, BELOW

STRATA = 10  # of features by how often they fire
SHUFFLES = 999
LEAST = 5  # features of a class: of fewer nothing is said
TOLD = 1.96  # z of the information that firing has of an expert, from which on a feature has one


def held_against_shuffled(
    statistic: Callable[[np.ndarray], float], classes: np.ndarray, fired: np.ndarray, seed: int = 0
) -> list[dict[str, Any]]:
    """A statistic of each class's features, and what it is where classes are shuffled within STRATA of
    `fired`.

    `statistic` takes the places of features [n] of `classes` [F]. One row a class of LEAST features or more:
    `class`, `features`, `value`, `null` (mean and quantiles), `p` of both tails.
    """
    random = np.random.default_rng(seed)
    # Equals in no order: by place they might stand class by class, and a stratum would have one class alone.
    parts = np.array_split(np.lexsort((random.random(len(fired)), fired)), STRATA)
    names = [name for name in np.unique(classes) if (classes == name).sum() >= LEAST]
    values = {name: [statistic(np.flatnonzero(classes == name))] for name in names}
    for _ in range(SHUFFLES):
        shuffled = classes.copy()
        for part in parts:
            shuffled[part] = random.permutation(classes[part])
        for name in names:
            values[name].append(statistic(np.flatnonzero(shuffled == name)))
    return [_row(name, int((classes == name).sum()), np.array(values[name])) for name in names]


def _row(name: str, features: int, values: np.ndarray) -> dict[str, Any]:
    observed, others = float(values[0]), values[1:]
    above, smallest = exact_p(observed, others)
    below, _ = exact_p(-observed, -others)
    low, high = np.quantile(others, [0.025, 0.975])
    null = {"mean": float(others.mean()), "low": float(low), "high": float(high)}
    return {
        "class": name,
        "features": features,
        "value": observed,
        "null": null,
        "p": {ABOVE: above, BELOW: below, "smallest": smallest},
    }


def effective_experts(experts: np.ndarray) -> float:
    """Over how many experts features are spread: exp of the entropy of `experts` [n]; 0 without any."""
    share = np.unique(experts, return_counts=True)[1] / max(len(experts), 1)
    return float(np.exp(-(share * np.log(share)).sum())) if len(experts) else 0.0


def _mean(values: np.ndarray, some: np.ndarray) -> float:
    return float(values[some].mean())


def _spread(told: np.ndarray, expert: np.ndarray, some: np.ndarray) -> float:
    return effective_experts(expert[some[told[some]]])


def experts_of_classes(affinity: pl.DataFrame, features: pl.DataFrame) -> list[dict[str, Any]]:
    """What experts the features of each class have, layer by layer, from `affinity` and the classes of
    features.

    Rows of `held_against_shuffled` with `layer` and `of`: "told", the share of a class's live features whose
    firing tells of an expert (z above TOLD in the half of the text that did not choose it); "experts", over
    how many experts those are spread; "information", the mean corrected information in nats.
    """
    live = features.filter(pl.col("class") != "dead").select("feature", "class", "fired")
    rows = []
    for (layer,), part in affinity.drop("fired").group_by("layer", maintain_order=True):
        both = live.join(part, on="feature").sort("feature")
        classes, fired = both["class"].to_numpy(), both["fired"].to_numpy()
        told = (both["z"].fill_null(0) > TOLD).to_numpy()
        expert = both["expert"].fill_null(-1).to_numpy()
        information = both["corrected"].fill_null(0).to_numpy()
        every = {
            "told": partial(_mean, told),
            "experts": partial(_spread, told, expert),
            "information": partial(_mean, information),
        }
        for name, statistic in every.items():
            rows += [
                {"layer": layer, "of": name} | row
                for row in held_against_shuffled(statistic, classes, fired)
            ]
    return rows


def lost_by_class(lost: pl.DataFrame, features: pl.DataFrame) -> list[dict[str, Any]]:
    """Which classes lose first when experts go, from `pruned_features` and the classes of features.

    Rows of `held_against_shuffled` with `score`, `keep` and `of`: "firings", the mean over a class's live
    features of the share of their firings that is lost, and "drive", that of what the source's own rows give
    them. What is held up by another source loses less firings whatever its class is worth, so that "drive"
    is the one to compare classes by; features of the other kind alone have next to none to lose.
    """
    live = features.filter(pl.col("class") != "dead").select("feature", "class")
    rows = []
    for (score, keep), part in lost.group_by("score", "keep", maintain_order=True):
        for name, gone in (("firings", pl.col("lost")), ("drive", 1 - pl.col("drive"))):
            some = part.with_columns(gone=gone).filter(pl.col("gone").is_not_null())
            both = live.join(some, on="feature").sort("feature")
            share, classes, fired = (both[name].to_numpy() for name in ("gone", "class", "fired"))
            found = held_against_shuffled(partial(_mean, share), classes, fired)
            rows += [{"score": score, "keep": keep, "of": name} | row for row in found]
    return rows
