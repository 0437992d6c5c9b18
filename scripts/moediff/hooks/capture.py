"""Activations at hook points, and the routing, read while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.core.errors import UserError
from moediff.hooks.points import HOOKS, Point, adder, first_output, stream_of
from moediff.models.families import (
    backbone,
    blocks,
    family_of,
    find_router,
    read_routed,
    residual_scale,
)


@dataclass(frozen=True)
class Routing:
    """What one MoE layer used, as its router gave it.

    Probabilities are the router's own opinion of all experts: the softmax of its logits, float32,
    or, where a family judges each expert by itself (DeepSeek-V3, GLM 4, Llama 4), their sigmoid,
    which does not sum to 1. Bias and groups, which only choose, and scaling are not in them.
    """

    experts: Tensor  # [batch, position, k], int64
    gates: Tensor  # [batch, position, k], weights of the experts
    probabilities: Tensor | None  # [batch, position, expert]


@dataclass(frozen=True)
class Captured:
    """What one pass found."""

    points: dict[Point, Tensor]  # [batch, position, d_model]
    routing: dict[int, Routing]  # by layer


class _Reached(Exception):
    """Ends a forward pass once all is taken: nothing after it is computed."""


class Capture:
    """Runs a model as far as it must and returns the activations at hook points, and the routing.

    Routing is that of every MoE layer which a pass computes up to the last point, as it was used.
    A layer's own is not part of it where the last point lies before its feed-forward. To be used
    in a `with` block, which takes the hooks off the model again.
    """

    routed: tuple[int, ...]  # the layers whose routing is captured

    def __init__(
        self,
        model: PreTrainedModel,
        points: Sequence[Point],
        routing: bool = False,
        probabilities: bool = False,
    ) -> None:
        """Raises UserError where a point or a router does not exist."""
        self.model, self.points, self.probabilities = model, tuple(points), probabilities
        self.taken: dict[Any, Any] = {}
        self.shape = (0, 0)  # batch and positions of the pass under way
        self.handles: list[Any] = []
        stack = blocks(model)
        for point in self.points:
            if point.hook not in HOOKS:
                raise UserError(f"hook {point.hook} does not exist; the hooks: {', '.join(HOOKS)}")
            if not 0 <= point.layer < len(stack):
                raise UserError(
                    f"layer {point.layer} does not exist; the model has {len(stack)} layers"
                )
        self.routed = tuple(self._routed(stack)) if routing else ()
        self.wanted = len(set(self.points)) + len(self.routed)
        try:
            self._register(stack)
        except UserError:
            self._release()  # else they would act in every later pass of the model
            raise

    def _routed(self, stack: nn.ModuleList) -> list[int]:
        done = max(point.feed_forwards for point in self.points)
        found = [n for n in range(done) if find_router(self.model, stack[n]) is not None]
        if found and self.probabilities and family_of(self.model) is None:
            raise UserError(
                f"{type(self.model).__name__}: how its router makes probabilities of logits is not "
                "known; set activations.routing to used"
            )
        return found

    # --- hooks ---

    def _register(self, stack: nn.ModuleList) -> None:
        for layer in self.routed:
            router = find_router(self.model, stack[layer])
            if router is None:
                raise UserError(f"layer {layer} has no router")
            self.handles.append(router.register_forward_hook(self._take_routing(layer)))
        for layer in sorted({point.layer for point in self.points}):
            self._watch(stack[layer], layer)

    def _release(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _watch(self, block: nn.Module, layer: int) -> None:
        """Register what the points of one block need."""
        hooks = {point.hook for point in self.points if point.layer == layer}
        scale = residual_scale(block)
        stream: dict[str, Tensor] = {}

        def enter(_: nn.Module, given: tuple, named: dict) -> None:
            value = self._checked("resid_pre", layer, stream_of(given, named))
            if "resid_mid" in hooks:
                stream["pre"] = value
            if "resid_pre" in hooks:
                self._take(Point("resid_pre", layer), value)

        def added(hook: str, out: Any) -> Tensor:
            value = first_output(out)
            if isinstance(value, Tensor) and value.ndim == 2:  # [token, d_model] (Llama 4)
                value = value.reshape(*self.shape, -1)
            value = self._checked(hook, layer, value)
            return value if scale == 1.0 else value * scale

        def attended(_: nn.Module, __: tuple, out: Any) -> None:
            value = added("attn_out", out)
            if "attn_out" in hooks:
                self._take(Point("attn_out", layer), value)
            if "resid_mid" in hooks:
                # What enters may still be on the device of the block before.
                middle = stream.pop("pre").to(value.device) + value
                self._take(Point("resid_mid", layer), middle)

        def fed(_: nn.Module, __: tuple, out: Any) -> None:
            self._take(Point("mlp_out", layer), added("mlp_out", out))

        def leave(_: nn.Module, __: tuple, out: Any) -> None:
            value = self._checked("resid_post", layer, first_output(out))
            self._take(Point("resid_post", layer), value)

        if hooks & {"resid_pre", "resid_mid"}:
            self.handles.append(block.register_forward_pre_hook(enter, with_kwargs=True))
        if hooks & {"attn_out", "resid_mid"}:
            attention = adder(self.model, block, "attn_out")
            self.handles.append(attention.register_forward_hook(attended))
        if "mlp_out" in hooks:
            feed_forward = adder(self.model, block, "mlp_out")
            self.handles.append(feed_forward.register_forward_hook(fed))
        if "resid_post" in hooks:
            self.handles.append(block.register_forward_hook(leave))

    def _take_routing(self, layer: int) -> Callable[..., None]:
        def take(_: nn.Module, __: tuple, out: Any) -> None:
            self._take(layer, self._routing_of(out, layer))

        return take

    def _checked(self, hook: str, layer: int, value: Any) -> Tensor:
        """A value that is [batch, position, d_model]; some families' streams have another form."""
        wanted = (*self.shape, self.model.config.get_text_config().hidden_size)
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        if shape != wanted:
            raise UserError(
                f"{type(self.model).__name__}: {hook} of layer {layer} is {shape or type(value).__name__}"
                f", not [batch, position, d_model] {wanted}; it cannot be read there"
            )
        return value

    def _take(self, name: Point | int, value: Any) -> None:
        last = len(self.taken.keys() | {name}) == self.wanted
        # Some families add to it in place (Falcon's feed-forward).
        copied = isinstance(value, Tensor) and not last
        self.taken[name] = value.clone() if copied else value
        if last:
            raise _Reached

    # --- running ---

    @torch.no_grad()
    def __call__(self, **inputs: Any) -> Captured:
        """What one forward pass over input_ids [batch, position] finds.

        Raises UserError where the pass never met a point, or a router gives another form.
        """
        self.shape, self.taken = tuple(inputs["input_ids"].shape), {}
        with suppress(_Reached):
            backbone(self.model)(**inputs)
        taken, self.taken = self.taken, {}
        missed = [str(point) for point in self.points if point not in taken]
        routers = [f"the router of layer {layer}" for layer in self.routed if layer not in taken]
        if missed or routers:
            advice = "; set activations.routing to none to go on without it" if routers else ""
            raise UserError(
                f"{type(self.model).__name__}: its pass never met {', '.join(missed + routers)}{advice}"
            )
        return Captured(
            {point: taken[point] for point in self.points},
            {layer: taken[layer] for layer in self.routed},
        )

    def _routing_of(self, out: Any, layer: int) -> Routing:
        """What a router gave, by the table of `families`, folded back to [batch, position, ...]."""
        routed, tokens = read_routed(self.model, out), self.shape[0] * self.shape[1]
        if routed is None or any(part.numel() != tokens * part.shape[-1] for part in routed):
            raise UserError(
                f"{type(self.model).__name__}: the router of layer {layer} does not give logits, gates "
                "and experts of each token; set activations.routing to none to go on without it"
            )
        logits, gates, experts = (part.reshape(*self.shape, -1) for part in routed)
        family = family_of(self.model)
        # Without a family there are none: it is refused at the start.
        probabilities = family.scores(logits) if self.probabilities and family else None
        return Routing(experts.long(), gates, probabilities)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()
