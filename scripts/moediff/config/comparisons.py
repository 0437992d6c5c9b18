"""The section `comparisons`: members, dictionaries, panels; its checks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace

from moediff.config.activations import model_shards, points
from moediff.config.base import ROW_SPLITS, Config, count_of
from moediff.config.kinds import kind, run_of
from moediff.config.layout import LONGEST_MEMBER, Fit, Member, Source, side
from moediff.config.models import model_width, seeds
from moediff.config.recipes import STREAM
from moediff.core.errors import ConfigError

MOST_CHOICES = 100_000  # of one seed a model
MOST_LABELLINGS = 200_000  # of a panel: seven seconds of a core and 30 MB of rows


def members(config: Config, comparison: str) -> list[Member]:
    """The dictionaries of a comparison, as lists of sources.

    `each` gives one for every choice of one seed a model (the same model twice: two seeds,
    in one order only; the same model at two points or steps: one seed); `all` gives one over every seed of
    every model. Where several points are read, a model named without one stands for each in turn.
    `seeds` leaves out all others. A control is `_controlled`.
    """
    settings = config["comparisons"][comparison]
    wanted = settings["seeds"]
    named = [side(name) for name in settings.get("each") or settings["all"]]
    found: dict[frozenset[Source], Member] = {}
    for point in points(config):
        sides = [
            [
                Source(model, seed, _point(config, model, own or point))
                for seed in seeds(config, model)
                if wanted is None or seed in wanted
            ]
            for model, own in named
        ]
        choices: Iterable[tuple[Source, ...]]
        if "all" in settings:
            choices = [tuple(itertools.chain(*sides))]
        else:
            choices = (one for one in itertools.product(*sides) if _is_choice(config, one))
        for sources in choices:
            shown = _controlled(sources, settings["control"])
            found.setdefault(frozenset(shown), Member(comparison, shown))
    return list(found.values())


def _controlled(sources: tuple[Source, ...], control: str | None) -> tuple[Source, ...]:
    """`permuted` pairs every source after the first with the wrong text; `rotated` puts beside the
    sources a copy of the last one in another basis."""
    if control == "permuted":
        return sources[:1] + tuple(replace(source, view=control) for source in sources[1:])
    if control == "rotated":
        return (*sources, replace(sources[-1], view=control))
    return sources


def _point(config: Config, model: str, point: str) -> str | None:
    """The hook point of a source; None where there is only one."""
    several = len(points(config)) > 1
    return point if several and kind(config, model).reads_text else None


def _is_choice(config: Config, sources: tuple[Source, ...]) -> bool:
    """Whether no source stands twice, and one model at two points or steps is of one seed."""
    runs = [(run_of(config, source.model), source.model, source.point) for source in sources]
    return len(set(sources)) == len(sources) and not any(
        one[0] == other[0] and one != other and a.seed != b.seed
        for (a, one), (b, other) in itertools.combinations(zip(sources, runs, strict=True), 2)
    )


def fits(config: Config) -> list[Fit]:
    """Every dictionary that the config asks for."""
    return [
        Fit(member, recipe, seed)
        for comparison, settings in config["comparisons"].items()
        for member in members(config, comparison)
        for recipe in settings["recipes"]
        for seed in config["recipes"][recipe]["seeds"]
    ]


def kinds(member: Member) -> dict[str, list[str]]:
    """Names of a member's sources by model, in order."""
    found: dict[str, list[str]] = {}
    for source in member.sources:
        found.setdefault(source.model, []).append(source.name)
    return found


def is_panel(config: Config, member: Member) -> bool:
    """Whether a member holds several models of each of two kinds, whose labels can be exchanged.

    Each model stands once: a control's view of it, or another of its hook points, is no other model.
    """
    sizes = [len(names) for names in kinds(member).values()]
    together = "all" in config["comparisons"][member.comparison]
    models = {(source.model, source.seed) for source in member.sources if not source.view}
    once = len(models) == len(member.sources)
    return together and once and len(sizes) == 2 and min(sizes) > 1


def doses(config: Config, member: Member) -> dict[str, float] | None:
    """Model -> the amount that a comparison says it has; None where it says none."""
    settings = config["comparisons"][member.comparison]
    amounts = settings.get("dose")
    if amounts is None:
        return None
    models = [side(name)[0] for name in settings["all"]]
    return dict(zip(models, amounts, strict=True))


def shared_fits(config: Config) -> list[list[Fit]]:
    """Dictionaries by job: at most `dictionaries_per_job` that agree in sources and stream of rows."""
    streams: dict[tuple, list[Fit]] = {}
    for fit in fits(config):
        recipe = config["recipes"][fit.recipe]
        streams.setdefault((fit.member, *(recipe[key] for key in STREAM)), []).append(fit)
    size = config["dictionaries_per_job"]
    return [
        together[start : start + size]
        for together in streams.values()
        for start in range(0, len(together), size)
    ]


def check_comparison(name: str, config: Config) -> None:
    where = f"comparisons.{name}"
    comparison = config["comparisons"][name]
    for name_of_side in comparison.get("each") or comparison["all"]:
        model, point = side(name_of_side)
        if model not in config["models"]:
            raise ConfigError(
                f"{where}: unknown model '{model}'; models: {', '.join(config['models'])}"
            )
        if point and point not in points(config):
            raise ConfigError(
                f"{where}: unknown hook point '{point}'; points: {', '.join(points(config))}"
            )
    for recipe in comparison["recipes"]:
        if recipe not in config["recipes"]:
            raise ConfigError(
                f"{where}.recipes: unknown recipe '{recipe}'; recipes: {', '.join(config['recipes'])}"
            )
    for seed in comparison["seeds"] or []:
        for name_of_side in comparison.get("each") or comparison["all"]:
            known = seeds(config, side(name_of_side)[0])
            if seed not in known:
                raise ConfigError(
                    f"{where}.seeds: {seed} is no seed of '{name_of_side}', which has "
                    f"{', '.join(map(str, known))}"
                )
    _check_choices(where, comparison, config)
    found = members(config, name)
    if not found:
        raise ConfigError(
            f"{where}: the same model twice needs as many seeds, or a source would stand twice "
            "in one dictionary (training.seeds)"
        )
    for member in found:
        if len(set(member.sources)) < len(member.sources):
            raise ConfigError(f"{where}: one source stands twice in {member.name}")
        if len(member.name) > LONGEST_MEMBER:
            models = ", ".join(dict.fromkeys(source.model for source in member.sources))
            raise ConfigError(
                f"{where}: a dictionary over these {len(member.sources)} sources has a name of "
                f"{len(member.name)} characters, more than a folder takes ({LONGEST_MEMBER}); shorten the "
                f"names of {models}, or take fewer seeds"
            )
        # Of more sources some would be in step with each other, and no rate of exclusive features known.
        if comparison["control"] and len(member.sources) != 2:
            raise ConfigError(
                f"{where}.control: permuted rows go with one other model's, a rotated copy with its own "
                f"model's; {member.name} has {len(member.sources)} sources"
            )
        if is_panel(config, member):
            _check_labellings(where, member)
    _check_doses(where, comparison)
    _check_shards(where, found[0], config)
    for recipe in comparison["recipes"]:
        _check_blocks(where, recipe, config["recipes"][recipe], found[0], config)


def _check_choices(where: str, comparison: Config, config: Config) -> None:
    """Refuse `each` over so many sides and seeds that listing the choices takes for ever."""
    named = comparison.get("each", ())
    choices = math.prod(len(seeds(config, side(name)[0])) for name in named) * len(points(config))
    if choices > MOST_CHOICES:
        raise ConfigError(
            f"{where}.each: {choices:,} choices of one seed a model are more than {MOST_CHOICES:,}; name "
            "fewer models, or seeds"
        )


def _check_labellings(where: str, member: Member) -> None:
    """Refuse a panel that can be labelled in more ways than are ever tried: its null needs each of them."""
    first, second = (len(names) for names in kinds(member).values())
    ways = math.comb(first + second, first)
    if ways > MOST_LABELLINGS:
        raise ConfigError(
            f"{where}: {first} and {second} models can be labelled in {ways:,} ways, and a panel is held "
            f"against each; take fewer seeds (10 and 10 models have 184,756), or put a part of them into "
            "comparisons of their own"
        )


def _check_doses(where: str, comparison: Config) -> None:
    """Refuse doses that are not one a model, or all the same."""
    amounts = comparison.get("dose")
    if amounts is None:
        return
    models = [side(name)[0] for name in comparison["all"]]
    if len(amounts) != len(models) or len(set(models)) < len(models):
        raise ConfigError(
            f"{where}.dose: {len(amounts)} amounts for {', '.join(models)}; write one for each model, each "
            "model once"
        )
    if len(set(amounts)) < 2:
        raise ConfigError(
            f"{where}.dose: all are {amounts[0]:g}; a trend needs two amounts or more"
        )


def _check_shards(where: str, member: Member, config: Config) -> None:
    """A file of `rows` holds the rows of one shard of every other source."""
    for split in ROW_SPLITS:
        counts = {s.model: model_shards(config, s.model, split) for s in member.sources}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{model} {count}" for model, count in counts.items())
            raise ConfigError(
                f"{where}: its sources have different numbers of {split} shards ({listed}); "
                "write one file of rows for each shard of the other source"
            )


def _check_blocks(where: str, name: str, recipe: Config, member: Member, config: Config) -> None:
    sources = len(member.sources)
    features = recipe["features"]
    tied = count_of(recipe["tied"], features) if sources > 1 else 0
    exclusive = count_of(recipe["exclusive"], features) * sources if sources > 1 else 0
    if tied + exclusive > features:
        raise ConfigError(
            f"{where} with recipe '{name}': {tied} tied and {exclusive} exclusive features "
            f"are more than {features}"
        )
    if recipe["tie"] == "direction" and tied:
        widths = {source.model: model_width(config, source.model) for source in member.sources}
        known = {model: width for model, width in widths.items() if width is not None}
        if len(set(known.values())) > 1:
            listed = ", ".join(f"{model} {width}" for model, width in known.items())
            raise ConfigError(
                f"{where} with recipe '{name}': a tie by direction needs equal widths, not "
                f"{listed}; use tie: norm"
            )
