"""What a model is: trained here, loaded, or external activations. The one place that decides it.

A kind is told by the key of its settings. What differs between kinds is a property of `Kind`: a new
kind is one entry of KINDS and, where it is built, one rule.
"""

from __future__ import annotations

from dataclasses import dataclass

from moediff.config.base import Config


@dataclass(frozen=True)
class Kind:
    """A kind of model, and what the workflow can do with it."""

    name: str  # as messages and tables say it
    reads_text: bool  # a language model: it can be run on tokens, and run again
    trained: bool  # here: it leaves weights under results and has seeds


# Key of a model's settings -> its kind.
KINDS = {
    # One trained here, after a step on its way.
    "kept": Kind("kept", reads_text=True, trained=True),
    "train": Kind("trained", reads_text=True, trained=True),
    "load": Kind("loaded", reads_text=True, trained=False),
    "rows": Kind("external activations", reads_text=False, trained=False),
}
KEPT, TRAINED, LOADED, EXTERNAL = KINDS.values()


def kind_of(settings: Config) -> Kind:
    """The kind of a model, from its settings, which the schema has checked to have one of KINDS."""
    return next(kind for key, kind in KINDS.items() if key in settings)


def kind(config: Config, model: str) -> Kind:
    """The kind of a model of a config."""
    return kind_of(config["models"][model])


def run_of(config: Config, model: str) -> str:
    """The model in whose training a model's weights were made: itself, unless they were kept on the way."""
    if kind(config, model) is not KEPT:
        return model
    run: str = config["models"][model]["kept"]["model"]
    return run


def models_of(config: Config, *kinds: Kind) -> list[str]:
    """Names of the models of these kinds, in the config's order."""
    return [name for name in config["models"] if kind(config, name) in kinds]


def language_models(config: Config) -> list[str]:
    """Names of the models that read text."""
    return [name for name in config["models"] if kind(config, name).reads_text]


def has_experts(config: Config, model: str) -> bool | None:
    """Whether a model is an MoE; None where that is not known before it is loaded."""
    if kind(config, model).trained:
        return config["models"][model]["train"]["experts"] > 1
    return None if kind(config, model).reads_text else False
