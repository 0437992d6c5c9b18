"""Hook points of a causal language model, found by structure: read activations while it runs.

Of a decoder block, in the order in which it computes them:

    resid_pre    what enters it                     resid_mid    resid_pre + attn_out
    attn_out     what attention adds                mlp_out      what the feed-forward adds
                                                    resid_post   what leaves it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.errors import UserError
from moediff.families import FEED_FORWARDS, family_of, find_router
from moediff.models import backbone

HOOKS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
_BEFORE_FEED_FORWARD = ("resid_pre", "attn_out", "resid_mid")
# Norms of what a part gives, before it is added to the stream (OLMo 2, Gemma, GLM 4).
_AFTER_ATTENTION = ("post_self_attn_layernorm", "post_attention_layernorm")
_AFTER_FEED_FORWARD = ("post_feedforward_layernorm", "post_mlp_layernorm")


# --- structure ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A hook at a decoder block."""

    hook: str  # one of HOOKS
    layer: int

    def __str__(self) -> str:
        return f"{self.hook}.{self.layer}"

    @classmethod
    def named(cls, name: str) -> Point:
        """The point of a name as `str` gives it. Raises UserError for a name that is none."""
        hook, _, layer = name.rpartition(".")
        if hook not in HOOKS or not layer.isdigit():
            raise UserError(f"'{name}' is no hook point of a model")
        return cls(hook, int(layer))

    @property
    def feed_forwards(self) -> int:
        """How many blocks' feed-forwards, so how many routings, have been done at this point."""
        return self.layer + (self.hook not in _BEFORE_FEED_FORWARD)


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks: the one list of modules as long as the model is deep.

    Of several it is the one whose modules have a feed-forward. Raises UserError.
    """
    depth = model.config.get_text_config().num_hidden_layers
    lists = [part for part in backbone(model).modules() if isinstance(part, nn.ModuleList)]
    deep = [part for part in lists if len(part) == depth]
    found = [part for part in deep if _child(part[0], FEED_FORWARDS) is not None] or deep
    if len(found) != 1:
        named = ", ".join(
            f"{name} ({len(module)} x {type(module[0]).__name__})"
            for name, module in backbone(model).named_modules()
            if isinstance(module, nn.ModuleList) and len(module)
        )
        raise UserError(
            f"{type(model).__name__}: {len(found)} stacks of {depth} decoder blocks were found, one "
            f"is needed; its lists of modules: {named or 'none'}"
        )
    return found[0]


def _child(block: nn.Module, names: Sequence[str]) -> nn.Module | None:
    return next((getattr(block, name) for name in names if hasattr(block, name)), None)


def _attention(block: nn.Module) -> nn.Module | None:
    named = ((name, part) for name, part in block.named_children() if "norm" not in name)
    return next(
        (part for name, part in named if "attn" in name or name.endswith("attention")), None
    )


def adder(model: PreTrainedModel, block: nn.Module, hook: str) -> nn.Module:
    """The part whose output is added to the stream: attention or feed-forward, or the norm after it."""
    after_feed_forward = _child(block, _AFTER_FEED_FORWARD)
    if hook == "mlp_out":
        found = after_feed_forward or _child(block, FEED_FORWARDS)
    elif after_feed_forward is not None:  # then attention has a norm after it too
        found = _child(block, _AFTER_ATTENTION)
    else:
        found = _attention(block)
    if found is None:
        parts = ", ".join(name for name, _ in block.named_children())
        raise UserError(
            f"{type(model).__name__}: no {hook} was found in {type(block).__name__}; its parts: {parts}"
        )
    return found


def first_output(value: Any) -> Any:
    """What a part returns first: the stream, or what is added to it."""
    return value[0] if isinstance(value, (tuple, list)) and len(value) else value


def stream_of(given: tuple, named: dict[str, Any]) -> Tensor:
    """The stream among the arguments of a block."""
    return given[0] if given else named["hidden_states"]


# --- one pass -----------------------------------------------------------------------------------


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
            self.handles.append(router.register_forward_hook(self._take_routing(layer)))
        for layer in sorted({point.layer for point in self.points}):
            self._watch(stack[layer], layer)

    def _release(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _watch(self, block: nn.Module, layer: int) -> None:
        """Register what the points of one block need."""
        hooks = {point.hook for point in self.points if point.layer == layer}
        scale = getattr(block, "residual_multiplier", 1.0)  # Granite scales what is added
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
        family = family_of(self.model)
        if family is not None:
            with suppress(TypeError, ValueError):  # of another form: refused below
                out = family.read(out, self.model.config.get_text_config())
        tokens = self.shape[0] * self.shape[1]
        if not (
            isinstance(out, tuple)
            and len(out) == 3
            and all(isinstance(part, Tensor) and part.ndim > 1 for part in out)
            and all(part.numel() == tokens * part.shape[-1] for part in out)
            and out[1].shape == out[2].shape
            and not out[2].is_floating_point()
        ):
            raise UserError(
                f"{type(self.model).__name__}: the router of layer {layer} does not give logits, gates "
                "and experts of each token; set activations.routing to none to go on without it"
            )
        logits, gates, experts = (part.reshape(*self.shape, -1) for part in out)
        # Without a family there are none: it is refused at the start.
        probabilities = family.scores(logits) if self.probabilities and family else None
        return Routing(experts.long(), gates, probabilities)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()
