"""The section `recipes`: what fits share, and the checks of one recipe."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

from moediff.config.base import Config, count_of
from moediff.core.errors import ConfigError

# Keys of a recipe that decide the order of rows and which are held out: fits that agree in them can
# share one stream of rows.
STREAM = ("data_seed", "pool_chunks", "threshold_rows")
NONE = "none"  # rows are shown to a dictionary as they are stored


def deciding(recipe: Mapping[str, Any]) -> Config:
    """The keys of a recipe that decide a dictionary, all but `seeds`; its preset is spelled out already."""
    return {k: v for k, v in recipe.items() if k not in ("seeds", "preset")}


def normalisation(recipe: Mapping[str, Any]) -> str:
    """How a recipe normalises rows: a name of `dictionaries.normalising.NORMALISERS`.

    That of a dictionary may be from before there was the key.
    """
    name: str = recipe.get("normalise", NONE)
    return name


def export_fault(layout: str, normalise: str) -> str:
    """Why a layout of another library cannot hold a dictionary of rows so normalised; empty where it can."""
    if normalise == "rms" and layout != "hub":
        return (
            "its recipe says normalise: rms, which divides each row by its own root mean square, and that "
            "layout does not; export it for the Hub"
        )
    if normalise == "whiten" and layout == "crosscoder":
        return (
            "its recipe says normalise: whiten, and folded into the decoders that changes the norms by "
            "which a crosscoder's features fire; export it for the Hub"
        )
    return ""


def check_recipe(
    name: str, recipe: Config, config: Config, rules: Mapping[str, Collection[str]]
) -> None:
    """Refuse a recipe whose keys contradict each other. Raises ConfigError.

    `rules` is what the schema says of `select`: names of the rules that keep k features (`keeps_k`),
    and of those whose thresholds are learned (`learns_thresholds`).
    """
    where = f"recipes.{name}"
    if recipe["k"] > recipe["features"]:
        raise ConfigError(f"{where}.k: {recipe['k']} is more than features {recipe['features']}")
    if recipe["warmup"] + recipe["decay"] > 1:
        raise ConfigError(f"{where}: warmup and decay together are more than the whole run")
    _check_selection(where, recipe, rules)
    _check_prefixes(where, recipe)
    if count_of(recipe["tied"], recipe["features"]) > recipe["features"]:
        raise ConfigError(
            f"{where}.tied: {recipe['tied']} is more than features {recipe['features']}"
        )
    if "corpus" not in config:
        return
    fit_tokens = config["corpus"]["tokens"]["fit"]
    if (recipe["threshold_rows"] or 0) * 2 > fit_tokens:
        raise ConfigError(
            f"{where}.threshold_rows: {recipe['threshold_rows']} is more than half of "
            f"corpus.tokens.fit ({fit_tokens})"
        )


def _check_selection(where: str, recipe: Config, rules: Mapping[str, Collection[str]]) -> None:
    """Keys that a selection rule needs, or that mean nothing to it."""
    select, penalties = recipe["select"], recipe["penalties"]
    if "l0" in penalties and select not in rules["learns_thresholds"]:
        raise ConfigError(
            f"{where}.penalties.l0: nothing learns from it with select: {select}; it moves the "
            f"thresholds of {', '.join(rules['learns_thresholds'])}"
        )
    if select in rules["keeps_k"]:
        if (
            recipe["k_start"] is not None
            and not recipe["k"] <= recipe["k_start"] <= recipe["features"]
        ):
            raise ConfigError(
                f"{where}.k_start: {recipe['k_start']} must lie between k ({recipe['k']}) and "
                f"features ({recipe['features']})"
            )
        return
    if not penalties:
        raise ConfigError(
            f"{where}.penalties: select: {select} keeps no number of features, so without a "
            "penalty nothing makes it sparse"
        )
    if recipe["k_start"] is not None:
        raise ConfigError(f"{where}.k_start: select: {select} keeps no number of features")
    if recipe["screen"] is True:
        raise ConfigError(
            f"{where}.screen: select: {select} lets too many scores pass for a screen to pay; "
            "leave it at auto"
        )


def _check_prefixes(where: str, recipe: Config) -> None:
    features = recipe["features"]
    counts = [count_of(part, features) for part in recipe["prefixes"]]
    if (
        counts[0] < 1
        or counts[-1] != features
        or any(a >= b for a, b in itertools.pairwise(counts))
    ):
        raise ConfigError(
            f"{where}.prefixes: {counts} must rise and end with all {features} features (1.0)"
        )
    if len(counts) > 1 and recipe["exclusive"]:
        raise ConfigError(
            f"{where}.prefixes: exclusive features come last in every order, so prefixes cannot "
            "rank them; leave out one of the two"
        )
