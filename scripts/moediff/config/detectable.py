"""The section `detectable`: which panels have effects planted into their rows, and which effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moediff.config.base import Config
from moediff.config.comparisons import is_panel, members
from moediff.config.kinds import kind
from moediff.config.layout import Fit
from moediff.config.models import own_tokenizers
from moediff.core.errors import ConfigError

ONLY = "only"  # strength of a signal that the other side does not have at all


@dataclass(frozen=True)
class Try:
    """An effect that is planted once."""

    share: float  # of variance, where it is planted
    strength: float | None  # times what the other side has of it; None: the other side has nothing
    number: int  # decides the class of tokens, the models and the direction

    @property
    def name(self) -> str:
        strength = ONLY if self.strength is None else f"{self.strength:g}"
        return f"share-{self.share:g}_times-{strength}_{self.number}"


def planted_tries(config: Config) -> dict[str, dict[str, Any]]:
    """Every effect that the config asks for, by its name in a path: what its job is told."""
    classes = config["detectable"]["classes"]
    return {
        one.name: {**asdict(one), "class": classes[one.number % len(classes)]}
        for one in _tries(config)
    }


def _tries(config: Config) -> list[Try]:
    settings = config["detectable"]
    return [
        Try(share, None if strength == ONLY else float(strength), number)
        for strength in settings["strengths"]
        for share in settings["shares"]
        for number in range(settings["tries"])
    ]


def planted_fits(config: Config, fits: Sequence[Fit]) -> list[Fit]:
    """The dictionaries whose panels are tried: of each comparison the first recipe and its first seed."""
    first: dict[str, Fit] = {}
    for fit in fits:
        if fit.member.comparison in config["detectable"]["comparisons"]:
            first.setdefault(fit.member.comparison, fit)
    return list(first.values())


def check_detectable(config: Config) -> None:
    """Refuse what cannot be planted. Raises ConfigError."""
    for name in config["detectable"]["comparisons"]:
        where = f"detectable.comparisons: {name}"
        if name not in config["comparisons"]:
            raise ConfigError(
                f"{where}: no such comparison; comparisons: {', '.join(config['comparisons'])}"
            )
        found = members(config, name)
        if not all(is_panel(config, member) for member in found):
            raise ConfigError(
                f"{where}: is no panel, all: [A, B] with two seeds of each or more, whose models have "
                "other labellings to plant by"
            )
        for model in dict.fromkeys(source.model for m in found for source in m.sources):
            if not kind(config, model).reads_text or model in own_tokenizers(config):
                raise ConfigError(
                    f"{where}: {model} does not read the text by the corpus's tokenizer, by whose tokens "
                    "a signal is planted"
                )
    names = [one.name for one in _tries(config)]
    if len(set(names)) < len(names):
        raise ConfigError(
            "detectable: two shares or strengths are the same number in six digits; drop one"
        )
