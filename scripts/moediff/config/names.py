"""Names that a user chooses: those that would share a place with a word of ours, and those too long."""

from __future__ import annotations

import re
from collections.abc import Iterable

from moediff.config.base import Config
from moediff.config.kinds import EXTERNAL, models_of
from moediff.core.errors import ConfigError
from moediff.core.terms import ALL

# Bytes of a name: a seed, a hook point and an ending come to it, and a file's takes 255.
LONGEST = 200
# What a name would stand beside, in one column or mapping, and be taken for. A test holds each to the
# constant of the module that writes it.
RESERVED = {
    "domain": {
        ALL: "the mean over all domains (histories, n-grams, splicing)",
        "unknown": "features without a top domain (panels)",
        "model": "the models, in the page's table of losses",
    },
    "model": {
        ALL: "the features that all models use (panels)",
        **dict.fromkeys(
            ("unigram", "bigram", "trigram"), "n-grams, beside the models in the table of losses"
        ),
    },
}
# A name whose end is one piece twenty times over is what Snakemake takes for an endless recursion.
_PERIODIC = re.compile(r"(.+?)\1{19}\Z")


def check_names(config: Config) -> None:
    """Refuse names that are taken, and those that Snakemake cannot plan. Raises ConfigError."""
    domains = config.get("corpus", {}).get("domains", {})
    _check("corpus.domains", domains, RESERVED["domain"])
    _check("models", config["models"], RESERVED["model"])
    for section in ("recipes", "comparisons"):
        _check(section, config[section], {})
    _check_cases("corpus.domains", domains)
    for section in ("models", "recipes", "comparisons"):
        _check_cases(section, config[section])
    for model in models_of(config, EXTERNAL):
        own = config["models"][model]["rows"]["domains"]
        if own is not None and own != [ALL]:  # alone it is what it says
            _check(f"models.{model}.rows.domains", own, RESERVED["domain"])
    for model in config["models"]:
        # Tables of recurrence have columns recurs_MODEL and recurs_of_MODEL.
        if model.startswith("of_"):
            raise ConfigError(
                f"models: a name that begins with of_, as '{model}', is taken by counts of features that "
                "recur; use another"
            )


def _check_cases(where: str, names: Iterable[str]) -> None:
    """Refuse names of files that some file systems hold for one."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            raise ConfigError(
                f"{where}: '{other}' and '{name}' differ in case alone, and would share their files on a "
                "file system that does not tell them apart; use another"
            )


def _check(where: str, names: Iterable[str], reserved: dict[str, str]) -> None:
    for name in names:
        if name in reserved:
            raise ConfigError(
                f"{where}: the name '{name}' is taken by {reserved[name]}; use another"
            )
        if len(name.encode()) > LONGEST:
            raise ConfigError(
                f"{where}: the name '{name[:40]}...' has {len(name.encode())} bytes, and {LONGEST} at "
                "most go into the names of files; shorten it"
            )
        if _PERIODIC.search(name):
            raise ConfigError(
                f"{where}: the name '{name[:40]}' ends with one piece twenty times over, which Snakemake "
                "takes for an endless recursion; use another"
            )
