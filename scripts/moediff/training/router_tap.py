"""What the routers of a model say while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.core.errors import UserError
from moediff.models.families import read_routed, routers


@contextmanager
def tapped(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Yield a list that takes up the logits [token, expert] of each router that runs inside.

    Raises UserError where a router's output is of no known form.
    """
    logits: list[Tensor] = []

    def note(_module: nn.Module, _inputs: tuple, output: Any) -> None:
        routed = read_routed(model, output)
        if routed is None:
            raise UserError(f"{type(model).__name__}: what its routers return is not known")
        logits.append(routed.logits)

    handles = [router.register_forward_hook(note) for router in routers(model).values()]
    try:
        yield logits
    finally:
        for handle in handles:
            handle.remove()
