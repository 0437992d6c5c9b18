"""Worlds of known truth as a config describes them: checked, and how often their features fire."""

from __future__ import annotations

from typing import Any

from moediff.config.base import Config
from moediff.core.errors import ConfigError

CHILD = 0.5  # share of its parent's rows on which a child fires


def check_planted(planted: Config) -> None:
    """Raises ConfigError where no such world can be made, or a seed is used twice."""
    active, features, base = planted["active"], planted["features"], planted["base"]
    if active > features:
        raise ConfigError(
            f"planted.active: {active} features a row are more than planted.features {features}"
        )
    seeds_of = planted["seeds"]
    for seed in seeds_of["choose"]:
        if seed in seeds_of["score"]:
            raise ConfigError(f"planted.seeds: seed {seed} is both to choose and to score on")
    _check_law(features, active, "planted.base", base)
    for factor in ("zipf", "children"):
        for level in planted["factors"][factor]:
            _check_law(features, active, f"planted.factors.{factor}", {**base, factor: level})


def _check_law(features: int, active: int, place: str, world: dict[str, Any]) -> None:
    zipf, share = world["zipf"], world["children"]
    if not zipf and not share:
        return
    if children(features, share) >= features:
        raise ConfigError(
            f"{place}: children {share:g} of planted.features {features} leaves no parent"
        )
    first = frequencies(features, active, zipf, share)[0]
    if first > 1:
        raise ConfigError(
            f"{place}: at zipf {zipf:g} and children {share:g} the first feature would fire on {first:.2f} "
            "of all rows; lower planted.active or raise planted.features"
        )


def children(features: int, share: float) -> int:
    """How many of so many features have a parent."""
    return round(share * features)


def frequencies(features: int, active: int, zipf: float, share: float) -> list[float]:
    """Share of rows on which the feature of each rank fires; together `active`.

    It falls with a power of rank; the last ranks, a share of all, are children of the first, in turn, and
    fire on CHILD of their parents' rows.
    """
    roots = features - children(features, share)
    rates = [rank**-zipf for rank in range(1, roots + 1)]
    rates += [CHILD * rates[number % roots] for number in range(features - roots)]
    total = sum(rates)
    return [active * rate / total for rate in rates]
