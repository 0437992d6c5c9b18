"""Weights that are kept on the way of a training run: after which steps, and what comparisons call them.

A comparison names `dense:step-500`, or `dense@resid_post.0.5:step-500`: the model as it was after that
optimizer step. To all that comes after it is a model of its own, `dense-step-500`, of the kind KEPT.
"""

from __future__ import annotations

import copy

from moediff.config.base import Config
from moediff.config.corpus import sequences
from moediff.config.kinds import TRAINED, kind, models_of
from moediff.config.layout import Side, at_step
from moediff.config.training import training_of
from moediff.core.errors import ConfigError


def step_count(config: Config, model: str) -> int:
    """Optimizer steps of a model that is trained here: those of `training.plan.Plan.steps`."""
    settings, share = training_of(config, model), config["models"][model]["sees"]["share"]
    used = round(share * sequences(config, "train"))
    steps: int = settings["epochs"] * (used // settings["batch"])
    return steps


def kept_steps(config: Config, model: str) -> list[int]:
    """The steps after which a model's weights are kept, rising; the end is the model itself.

    `evenly` cuts the run into so many equal parts and `log` into parts of equal ratio, at whose ends but the
    last they are kept; `steps` are counts, or shares of the run.
    """
    steps, keep = step_count(config, model), training_of(config, model)["keep"]
    found = {step if isinstance(step, int) else round(step * steps) for step in keep["steps"]}
    for name, end in (("evenly", lambda part: steps * part), ("log", lambda part: steps**part)):
        parts = keep[name] or 1
        found |= {round(end(number / parts)) for number in range(1, parts)}
    return sorted(step for step in found if 0 < step < steps)


def check_kept(name: str, config: Config) -> None:
    """Refuse steps that a model has none of, and names that kept weights take. Raises ConfigError."""
    if kind(config, name) is not TRAINED:
        return
    steps = step_count(config, name)
    for step in training_of(config, name)["keep"]["steps"]:
        if isinstance(step, int) and step >= steps > 0:
            raise ConfigError(
                f"training.keep.steps: {step} is not before the end of '{name}', which takes {steps} steps; "
                f"write a smaller one or a share, or models.{name}.training.keep for it alone"
            )
    for step in kept_steps(config, name):
        if at_step(name, step) in config["models"]:
            raise ConfigError(
                f"models: '{at_step(name, step)}' is what '{name}' is called as kept after step {step}; "
                "use another name"
            )


def add_kept(config: Config) -> None:
    """Add to the models those that comparisons name at a step, in place. Raises ConfigError."""
    for comparison, settings in config["comparisons"].items():
        for name in settings.get("each") or settings["all"]:
            found = Side.parse(name)
            if found.step is not None:
                _add(config, f"comparisons.{comparison}: '{name}'", found.model, found.step)


def _add(config: Config, where: str, model: str, step: int) -> None:
    trained = models_of(config, TRAINED)
    if model not in trained:
        raise ConfigError(
            f"{where}: only of a model that is trained here weights are kept; those are "
            f"{', '.join(trained) or 'none'}"
        )
    steps = step_count(config, model)
    if not steps:
        raise ConfigError(f"{where}: '{model}' takes no step (sees.share)")
    if step == steps:
        raise ConfigError(f"{where}: that is the end of its training; write '{model}' alone")
    kept = kept_steps(config, model)
    if step not in kept:
        listed = ", ".join(map(str, kept)) or "none"
        raise ConfigError(
            f"{where}: of the {steps} steps of '{model}' that one is not kept; kept are {listed}; set "
            "training.keep"
        )
    settings = copy.deepcopy(config["models"][model])
    config["models"][at_step(model, step)] = settings | {"kept": {"model": model, "step": step}}
