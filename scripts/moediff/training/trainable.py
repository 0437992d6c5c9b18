"""Which parameters of a model learn; all others stay as they began.

A part is a function from a model to names of its parameters. Add one here and to `TRAINABLE`, and
its name to `training.trainable` in config/schema.yaml.
"""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel

from moediff.core.errors import UserError
from moediff.models.families import routers


def everything(model: PreTrainedModel) -> list[str]:
    """Every parameter."""
    return [name for name, _ in model.named_parameters()]


def router(model: PreTrainedModel) -> list[str]:
    """The parameters of the routers of an MoE."""
    inside = {
        id(parameter) for module in routers(model).values() for parameter in module.parameters()
    }
    return [name for name, parameter in model.named_parameters() if id(parameter) in inside]


TRAINABLE: dict[str, Callable[[PreTrainedModel], list[str]]] = {
    "all": everything,
    "router": router,
}


def train_only(model: PreTrainedModel, part: str) -> None:
    """Let the parameters of a part learn, and no others. Raises UserError when it has none."""
    names = set(TRAINABLE[part](model))
    if not names:
        raise UserError(f"training.trainable: this model has no {part} to train; set it to all")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
