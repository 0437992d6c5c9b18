"""Which dictionaries play which part: pairs, panels, what claims are about, what is drawn.

Plain questions about the dictionaries of a whole config (`comparisons.fits`). Rules ask them for the
files that a job takes; nothing here knows a path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moediff.config.base import Config
from moediff.config.comparisons import doses, is_panel
from moediff.config.kinds import EXTERNAL, LOADED, TRAINED, has_experts, kind, models_of, run_of
from moediff.config.layout import Fit, Member, Source
from moediff.config.training import init_of

SHOWN = 24  # dictionaries on the page: of 2,048 features each its browser has 12 MB, figures 0.1 MB each


def as_they_are(fit: Fit) -> bool:
    """Whether no source of a dictionary is a control's view."""
    return not any(source.view for source in fit.member.sources)


def models_in(fit: Fit) -> set[str]:
    """Models of a dictionary's sources."""
    return {source.model for source in fit.member.sources}


def with_sources(fits: Sequence[Fit], count: int) -> list[Fit]:
    """Dictionaries over so many sources."""
    return [fit for fit in fits if len(fit.member.sources) == count]


def pairs(fits: Sequence[Fit]) -> list[Fit]:
    """Dictionaries over two models as they are."""
    return [fit for fit in with_sources(fits, 2) if as_they_are(fit)]


def panels(config: Config, fits: Sequence[Fit]) -> list[Fit]:
    """Dictionaries over several models of each of two kinds."""
    return [fit for fit in fits if is_panel(config, fit.member)]


def dosed(config: Config, fits: Sequence[Fit]) -> list[Fit]:
    """Dictionaries over models of which their comparison says a dose."""
    return [fit for fit in fits if doses(config, fit.member) is not None]


def whole_learners(config: Config) -> list[str]:
    """Models that learned from the whole train split: those whose loss is held against n-grams."""
    whole = {"domains": None, "share": 1}
    return [name for name in models_of(config, TRAINED) if config["models"][name]["sees"] == whole]


def why_no_divergence(config: Config, member: Member) -> str:
    """Why the predictions of a member's sources cannot be held against each other; empty where they can.

    Whether two checkpoints that both read by their own tokenizer have the same one is not known here.
    """
    if len(member.sources) != 2:
        return "only two sources have a divergence"
    first, second = member.sources
    for source in member.sources:
        if not kind(config, source.model).reads_text:
            return f"{source.model} is {EXTERNAL.name}; only language models predict tokens"
        if source.view:
            return f"{source.name} is a control, whose rows are no model's; take two models as they are"
    if (first.model, first.seed) == (second.model, second.seed):
        return f"both sources are {first.model}, seed {first.seed}, whose predictions are one"
    ways = [_reads(config, source.model) for source in member.sources]
    if ways[0] != ways[1]:
        return (
            f"{first.model} and {second.model} read the text by different tokenizers; write the same "
            "tokenizer and begin_of_text for both models"
        )
    return ""


def _reads(config: Config, model: str) -> tuple[str, bool]:
    """By whose tokenizer a model reads the text, and whether a beginning is put before it."""
    settings = config["models"][model]
    return settings.get("tokenizer", "corpus"), settings.get("begin_of_text", False)


def share_a_basis(config: Config, pair: Fit | None) -> bool:
    """Whether rows of the drawn pair can be held against each other number by number: not of models that
    were trained here from scratch, each in a basis of its own."""
    if pair is None:
        return False
    return len({_beginning(config, source) for source in pair.member.sources}) == 1


def _beginning(config: Config, source: Source) -> tuple[str, int] | None:
    """The run trained here that a model came from in the end; None of one that began elsewhere."""
    model = source.model
    while kind(config, model).trained:
        model = run_of(config, model)
        _, earlier = init_of(config, model)
        if earlier is None:
            return model, source.seed
        model = earlier
    return None


def tells_divergence(config: Config, pair: Fit | None) -> bool:
    """Whether the page says how far the predictions of the drawn pair lie apart: of two loaded models,
    which read the same tokens as far as the config tells. Models trained here have their losses."""
    if pair is None or any(kind(config, model) is not LOADED for model in models_in(pair)):
        return False
    return not why_no_divergence(config, pair.member)


# --- what claims are about ---


def primary_panels(config: Config, fits: Sequence[Fit], primary: Mapping[str, Any]) -> list[Fit]:
    """Panels of the primary recipe over the two models that claims are about, those with most seeds."""
    named = {primary["moe"], primary["dense"]}
    chosen = [
        fit
        for fit in panels(config, fits)
        if fit.recipe == primary["recipe"] and models_in(fit) == named
    ]
    most = max((len(fit.member.sources) for fit in chosen), default=0)
    return with_sources(chosen, most)


def known_panels(config: Config, fits: Sequence[Fit], primary: Mapping[str, Any]) -> list[Fit]:
    """Panels whose answer is known: one kind of model learned all text, the other did not."""
    trained, whole = set(models_of(config, TRAINED)), set(whole_learners(config))
    return [
        fit
        for fit in panels(config, fits)
        if fit.recipe == primary["recipe"]
        and models_in(fit) <= trained
        and len(models_in(fit) & whole) == 1
    ]


def primary_analysis(config: Config, primary: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how claims were measured, by the keys of the primary analysis.

    A model is named as claims call it, and None where the config trains one of the other kind under
    that name, or has none.
    """
    recipe = config["recipes"].get(primary["recipe"], {})

    def named(side: str) -> str | None:
        name = primary[side]
        if name not in config["models"]:
            return None
        if not kind(config, name).trained:
            return name
        return name if has_experts(config, name) == (side == "moe") else None

    return {
        "moe": named("moe"),
        "dense": named("dense"),
        "hook": config["activations"]["hook"],
        "layer": config["activations"]["layer"],
        "recipe": primary["recipe"] if recipe else None,
        "features": recipe.get("features"),
        "k": recipe.get("k"),
        "bounds": config["features"]["bounds"],
        "user_floor": config["features"]["user_floor"],
    }


# --- what is drawn, and whose features can be looked through ---


def drawn_pair(fits: Sequence[Fit], primary: Mapping[str, Any]) -> Fit | None:
    """The dictionary over two models whose features are drawn; None without one.

    The first of the primary recipe and models where there are such, else the first of all.
    """
    wanted = (primary["moe"], primary["dense"], primary["recipe"])
    two = [fit for fit in pairs(fits) if len(models_in(fit)) == 2]
    first = [
        fit
        for fit in two
        if (*(source.model for source in fit.member.sources), fit.recipe) == wanted
    ]
    return next(iter(first + two), None)


def nulls_of(pair: Fit, fits: Sequence[Fit]) -> list[Fit]:
    """Dictionaries of a pair's recipe over two seeds of one of its models."""
    return [
        fit
        for fit in pairs(fits)
        if fit.recipe == pair.recipe
        and len(models_in(fit)) == 1
        and models_in(fit) < models_in(pair)
    ]


def first_null_of_each(pair: Fit, fits: Sequence[Fit]) -> list[Fit]:
    """The first null dictionary of every model of a pair."""
    first = {fit.member.sources[0].model: fit for fit in reversed(nulls_of(pair, fits))}
    return list(first.values())


def saes_of(config: Config, fits: Sequence[Fit], fit: Fit) -> list[Fit]:
    """The SAEs of a dictionary's models at its hook points, of its recipe and first seed: one a source."""
    sides = {(source.model, source.point) for source in fit.member.sources}
    seed = config["recipes"][fit.recipe]["seeds"][0]
    first: dict[Source, Fit] = {}
    for other in with_sources(fits, 1):
        (source,) = other.member.sources
        if (
            source.view is None
            and (source.model, source.point) in sides
            and (other.recipe, other.seed) == (fit.recipe, seed)
        ):
            first.setdefault(source, other)
    return list(first.values())


def routed_sources(config: Config, pair: Fit | None) -> list[Source]:
    """Sources of a pair that have stored experts, or may have: of a loaded model it is not known yet."""
    if pair is None or config["activations"]["routing"] == "none":
        return []
    return [
        source for source in pair.member.sources if has_experts(config, source.model) is not False
    ]


def shown(fits: Sequence[Fit], pair: Fit | None, most: int = SHOWN) -> list[Fit]:
    """Dictionaries whose features and figures the page has, at most so many.

    The pair that is drawn, then the first of every comparison and recipe, then the second of each.
    """
    number: dict[tuple[str, str], int] = {}
    turns = []
    for fit in fits:
        key = fit.member.comparison, fit.recipe
        number[key] = number.get(key, -1) + 1
        turns.append(number[key])
    order = sorted(range(len(fits)), key=lambda place: (fits[place] != pair, turns[place], place))
    return [fits[place] for place in order[:most]]


def has_text(config: Config, fit: Fit) -> bool:
    """Whether the text at a dictionary's rows is known: examples of its features can be shown."""
    return as_they_are(fit) and all(kind(config, model).reads_text for model in models_in(fit))
