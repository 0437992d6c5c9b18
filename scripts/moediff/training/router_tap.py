"""What the routers of a model say while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.models.families import backbone, find_router


def routers(model: PreTrainedModel) -> list[nn.Module]:
    """The routers of a model, one an MoE layer, in order; none of a dense model."""
    places = [find_router(model, block) for block in backbone(model).layers]
    return [router for router in places if router is not None]


def top_k_of(model: PreTrainedModel) -> int:
    """Experts that a token uses (1 for a dense model)."""
    return getattr(model.config, "num_experts_per_tok", 1)


@contextmanager
def tapped(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Yield a list that takes up the logits [token, expert] of each router that runs inside."""
    logits: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: logits.append(output[0]))
        for module in modules
    ]
    try:
        yield logits
    finally:
        for handle in handles:
            handle.remove()
