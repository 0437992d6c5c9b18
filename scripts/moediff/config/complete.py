"""The door to a config: presets and defaults filled in, every section checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moediff.config.activations import check_hook
from moediff.config.base import Config
from moediff.config.comparisons import check_comparison
from moediff.config.corpus import check_corpus
from moediff.config.detectable import check_detectable
from moediff.config.kept import add_kept, check_kept
from moediff.config.kinds import language_models
from moediff.config.models import check_model
from moediff.config.names import check_names
from moediff.config.places import settle
from moediff.config.planted import check_planted
from moediff.config.recipes import check_recipe
from moediff.config.schema import fill
from moediff.config.sizes import check_sizes
from moediff.config.training import check_training
from moediff.core.errors import ConfigError, one_line


def complete(
    config: Mapping[str, Any], schema: Mapping[str, Any], presets: Mapping[str, Config]
) -> Config:
    """The config with presets and every default filled in, checked. Raises ConfigError with one line."""
    try:
        whole = fill(config, schema, presets)
        settle(whole)
        _check(whole, schema)
    except ConfigError as error:
        raise ConfigError(one_line(str(error))) from error
    return whole


def _check(config: Config, schema: Mapping[str, Any]) -> None:
    check_names(config)
    low, high = config["features"]["bounds"]
    if not 0 <= low <= high <= 1:
        raise ConfigError(f"features.bounds: [{low}, {high}] must rise from 0 to 1")
    if "corpus" in config:
        check_corpus(config)
    elif language_models(config):
        raise ConfigError("config: the key 'corpus' is missing")
    for name, model in config["models"].items():
        check_model(name, model, config)
        check_training(name, config)
        check_kept(name, config)
    check_hook(config)
    add_kept(config)
    rules = schema["$defs"]["recipe"]["properties"]["select"]
    for name, recipe in config["recipes"].items():
        check_recipe(name, recipe, config, rules)
    for name in config["comparisons"]:
        check_comparison(name, config)
    check_detectable(config)
    check_planted(config["planted"])
    check_sizes(config)
