"""How a model begins: the first weights of a run.

An init is a function of a `Start`. Add one here and to `INITS`, and its key to `models.<name>.init`
in config/schema.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from moediff.core import artifact
from moediff.core.errors import UserError, first_line
from moediff.models import build, loading


@dataclass(frozen=True)
class Start:
    """What a model is made of before its first step."""

    architecture: Mapping[str, Any]  # the config's `train` keys
    vocabulary: int  # entries
    context: int  # tokens of a sequence
    end_of_text: int  # id of the token
    seed: int
    source: Path | str | None = None  # model.json of the model that it is made from


def scratch(start: Start) -> PreTrainedModel:
    """Random weights, decided by the seed."""
    return build.build(
        start.architecture, start.vocabulary, start.context, start.end_of_text, start.seed
    )


def _source(start: Start) -> Path | str:
    """The model.json that a model is made from. Raises UserError where none is given."""
    if start.source is None:
        raise UserError("a model that begins with another one needs the model.json of that one")
    return start.source


def checkpoint(start: Start) -> PreTrainedModel:
    """The weights of another model of the same architecture, to be trained on.

    Raises UserError when its tensors are others than this architecture's, DamagedError when they
    are not those that its model.json describes.
    """
    source, _ = loading.open_manifest(_source(start), torch.device("cpu"))
    model = scratch(start)
    try:
        model.load_state_dict(source.state_dict(), strict=True)
    except RuntimeError as error:
        raise UserError(
            f"{start.source}: not a model of the architecture that begins with it "
            f"({first_line(error)})"
        ) from error
    return model


INITS: dict[str, Callable[[Start], PreTrainedModel]] = {
    "scratch": scratch,
    "checkpoint": checkpoint,
}


def begin(init: Mapping[str, str], start: Start) -> PreTrainedModel:
    """The model that a config's `init` asks for, {name of an init: model}; {} is from scratch."""
    return INITS[next(iter(init), "scratch")](start)


def provenance(init: Mapping[str, str], start: Start) -> dict[str, Any]:
    """What a result says of how its model began: nothing from scratch, else init, model and digest."""
    if not init:
        return {}
    return {"init": {**init, "digest": artifact.read_json(_source(start))["digest"]}}
