"""What each expert adds to the stream, slot by slot, read while a model runs.

    with slots(model, [3, 5]) as found:
        model(**inputs)
    found[3].parts                                              # [token, k, d_model], by gate

A layer's feed-forward is called again with one expert of each token at a time, routed by `hooks.routing` and
weighed as it was: so it holds for every family, whatever its experts do inside. That costs about one more
call of the layer, and no pass of the model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.core.errors import UserError
from moediff.hooks.points import adder, feed_forward, first_output
from moediff.hooks.routing import force, routing
from moediff.models.families import Routed, blocks, read_routed, residual_scale, routers


class Layer:
    """An MoE layer in one pass: what it was given, and how it routed."""

    def __init__(
        self,
        model: PreTrainedModel,
        number: int,
        part: nn.Module,
        given: tuple[tuple, dict[str, Any]],
        routed: Routed,
    ) -> None:
        self.model, self.number, self.given = model, number, given
        order = routed.gates.argsort(dim=-1, descending=True, stable=True)
        flat = (-1, routed.gates.shape[-1])
        self.gates = routed.gates.gather(-1, order).reshape(flat)  # [token, k], the largest first
        self.experts = routed.experts.gather(-1, order).reshape(flat)
        self.logits = routed.logits.reshape(-1, routed.logits.shape[-1])  # [token, expert]
        self.part, self.scale = part, residual_scale(blocks(model)[number])

    def adds(self, experts: Tensor, gates: Tensor) -> Tensor:
        """What the layer adds to the stream where it has `experts` with `gates`, both [token, some]: [token,
        d].

        Shared experts and all else that does not hang on routing are in it.
        """
        arguments, named = self.given
        with routing(self.model, force(experts, gates), [self.number]), torch.no_grad():
            out = first_output(self.part.forward(*arguments, **named))
        return out.reshape(len(experts), -1) * self.scale


@dataclass(frozen=True)
class Slots:
    """What an MoE layer adds to the stream at each token of a pass, part by part."""

    layer: Layer
    whole: Tensor  # [token, d_model], as the layer gave it
    shared: Tensor  # [token, d_model], with no routed expert
    parts: Tensor  # [token, k, d_model], what each expert adds by its gate, the largest gate first

    @property
    def gates(self) -> Tensor:
        return self.layer.gates

    @property
    def experts(self) -> Tensor:
        return self.layer.experts

    def alone(self, experts: Tensor, gates: Tensor) -> Tensor:
        """What one other expert [token] would add with a gate [token]: [token, d_model]."""
        return self.layer.adds(experts[:, None], gates[:, None]) - self.shared


@contextmanager
def slots(model: PreTrainedModel, layers: Collection[int]) -> Iterator[dict[int, Slots]]:
    """Inside it every pass fills the slots of some MoE layers, by layer.

    Raises UserError where a layer has no experts, its router's output is not known, or a norm stands between
    the experts and the stream, so that their parts do not add up.
    """
    every, found = routers(model), dict[int, Slots]()
    with ExitStack() as hooks:
        for layer in layers:
            if layer not in every:
                raise UserError(f"{type(model).__name__}: layer {layer} has no experts")
            for handle in _watched(model, layer, every[layer], found):
                hooks.callback(handle.remove)
        yield found


def _watched(
    model: PreTrainedModel, number: int, router: nn.Module, found: dict[int, Slots]
) -> list[Any]:
    block = blocks(model)[number]
    part = feed_forward(block)
    if part is None or adder(model, block, "mlp_out") is not part:
        raise UserError(
            f"{type(model).__name__}: layer {number} has a norm after its experts; what they add to the "
            "stream is no sum over them"
        )
    decided: list[Routed] = []

    def note(_: nn.Module, __: tuple, out: Any) -> None:
        routed = read_routed(model, out)
        if routed is None:
            raise UserError(
                f"{type(model).__name__}: what the router of layer {number} returns cannot be read"
            )
        decided[:] = [routed]

    def fed(_: nn.Module, given: tuple, named: dict, out: Any) -> None:
        layer = Layer(model, number, part, (given, named), decided.pop())
        whole = first_output(out).reshape(len(layer.gates), -1) * layer.scale
        none = torch.zeros_like(layer.gates[:, :1])
        shared = layer.adds(layer.experts[:, :1], none)
        parts = [
            layer.adds(expert, gate) - shared
            for expert, gate in zip(layer.experts.split(1, 1), layer.gates.split(1, 1), strict=True)
        ]
        found[number] = Slots(layer, whole, shared, torch.stack(parts, 1))

    return [
        router.register_forward_hook(note),
        part.register_forward_hook(fed, with_kwargs=True),
    ]
