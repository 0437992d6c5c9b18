"""Parameters of a model, total and active."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from transformers import PreTrainedModel

from moediff.core.errors import UserError
from moediff.models.families import (
    expert_count,
    is_expert_parameter,
    language_model,
    routers,
    top_k,
)


@dataclass(frozen=True)
class Parameters:
    """Parameter counts; `active` are those that one text token uses."""

    total: int  # of a multimodal model with its towers of images and sounds
    active: int  # of its language model alone
    embedding: int  # token embedding and unembedding, part of both
    router: int  # part of both


def count_parameters(model: PreTrainedModel) -> Parameters:
    """Counts by structure: of the experts' tensors a token uses top_k of every expert's.

    Routers that `families` does not find are not told apart from the rest.
    """
    total = active = embedding = router = 0
    experts, used = expert_count(model), top_k(model)
    unembedding = model.get_output_embeddings()
    heads = {id(part) for part in model.get_input_embeddings().parameters()}
    heads |= {id(part) for part in unembedding.parameters()} if unembedding is not None else set()
    text = heads | {id(part) for part in language_model(model).parameters()}
    gates: set[int] = set()
    with suppress(UserError):
        gates = {id(part) for module in routers(model).values() for part in module.parameters()}
    for name, parameter in model.named_parameters():
        size = parameter.numel()
        total += size
        if id(parameter) not in text:
            continue
        if is_expert_parameter(name) and experts and used:
            size = size * used // experts
        active += size
        if id(parameter) in heads:
            embedding += size
        elif id(parameter) in gates:
            router += size
    return Parameters(total, active, embedding, router)
