"""Routing of a running model changed in its MoE layers, recorded, or held.

    with routing(model, keep(1)): ...                          # in every MoE layer, or in `layers`
    with recording(model, point) as clean: ...                 # a pass whose routing is kept
    with freezing(model, clean): ...                             # passes that route as that one did

A change is a function of a router's call. Contexts nest: the innermost change is given what the outer ones
made, and a `mask` holds for all of them. What changes nothing gives the model's own logits, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from moediff.core.errors import UserError
from moediff.hooks.points import Point
from moediff.models.families import (
    Routed,
    expert_count,
    family_of,
    gates_of,
    known_family,
    read_routed,
    routers,
    top_k,
    write_routed,
)


class _Minus(TorchFunctionMode):
    """Inside it every linear map gives -inf at some outputs: a router's logits of some experts."""

    def __init__(self, experts: Tensor) -> None:
        super().__init__()
        self.experts = experts

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        if function is F.linear:
            return out.index_fill(-1, self.experts.to(out.device), -torch.inf)
        return out


@dataclass(frozen=True)
class Call:
    """One call of a router, as a change is given it."""

    model: PreTrainedModel
    layer: int
    router: nn.Module
    run: Callable[[], Any]  # the router's own forward on what it was given

    def routed(self) -> Routed:
        """What the router decides by itself. Raises UserError where its form is not known."""
        routed = read_routed(self.model, self.run())
        if routed is None:
            raise UserError(
                f"{self._name()} does not return gates of the experts that it chose, so none can be "
                "changed"
            )
        return routed

    def routed_without(self, experts: Collection[int]) -> Routed:
        """What it decides where some experts have logits of -inf, by its own code.

        Where a bias takes part in the choice (DeepSeek-V3, GLM 4) theirs is below all others', so that
        none of them is chosen while another one can be. Raises UserError where fewer experts are left
        than a token uses.
        """
        family, count, used = known_family(self.model), expert_count(self.model), top_k(self.model)
        if count is None or used is None:
            raise UserError(f"{self._name()}: its config does not say how many experts there are")
        if not set(experts) <= set(range(count)) or count - len(set(experts)) < used:
            raise UserError(
                f"{self._name()} has experts 0 to {count - 1} of which a token uses {used}; "
                f"{len(set(experts))} of them cannot be masked: {sorted(set(experts))}"
            )
        gone = torch.tensor(sorted(set(experts)), dtype=torch.int64)
        with ExitStack() as stack:
            if family.choice_bias is not None:
                bias = getattr(self.router, family.choice_bias)  # [expert]
                lowered = bias.index_fill(0, gone.to(bias.device), float(bias.min()) - 1)
                setattr(self.router, family.choice_bias, lowered)
                stack.callback(setattr, self.router, family.choice_bias, bias)
            stack.enter_context(_Minus(gone))
            routed = self.routed()
        if not bool(routed.logits[..., gone.to(routed.logits.device)].isneginf().all()):
            raise UserError(
                f"{self._name()} does not make its logits by a linear map; none is masked"
            )
        return routed

    def gates(self, logits: Tensor, experts: Tensor) -> Tensor:
        """Gates [token, k] by the family's rule, of experts [token, k] that are given."""
        if bool(logits.gather(-1, experts).isneginf().any()):
            raise UserError(f"{self._name()} is given an expert that is masked")
        return gates_of(self.model, logits, experts)

    def _name(self) -> str:
        return f"{type(self.model).__name__}: the router of layer {self.layer}"


Change = Callable[[Call], Routed]


def keep(k: int, renormalise: bool = False) -> Change:
    """Of the experts that a token uses the k with the largest gates; the others' gates are 0.

    With `renormalise` the kept gates are scaled so that their sum is what that of all was.
    """

    def change(call: Call) -> Routed:
        routed = call.routed()
        used = routed.gates.shape[-1]
        if not 1 <= k <= used:
            raise UserError(f"a token uses {used} experts: keep 1 to {used} of them, not {k}")
        kept = routed.gates.scatter(-1, _by_gate(routed)[..., k:], 0.0)
        if renormalise:
            before, after = (gates.sum(-1, keepdim=True) for gates in (routed.gates, kept))
            kept = kept * torch.where(after > 0, before / after, 1.0).to(kept.dtype)
        return routed._replace(gates=kept)

    return change


def rank(r: int) -> Change:
    """One expert a token, that of rank r from 1, with the gate that the family gives to one alone.

    First come those that the token uses, by gate, then all others by logit (2405.14507, whose rank
    counts from 0).
    """

    def change(call: Call) -> Routed:
        routed = call.routed()
        experts, used = routed.logits.shape[-1], routed.gates.shape[-1]
        if not 1 <= r <= experts:
            raise UserError(f"there are {experts} experts: take a rank of 1 to {experts}, not {r}")
        if r <= used:
            chosen = routed.experts.gather(-1, _by_gate(routed)[..., r - 1 : r])  # [token, 1]
        else:
            others = routed.logits.scatter(-1, routed.experts, -torch.inf)
            chosen = others.topk(r - used, -1).indices[..., -1:]
        return _weighed(call, routed.logits, chosen, routed.gates.dtype)

    return change


def alone(pick: Callable[[Routed], Tensor]) -> Change:
    """One expert a token, that which `pick` gives [token, 1], with the largest of the token's gates.

    So experts in the place of the heaviest differ from it by what they say and not by their weight.
    """

    def change(call: Call) -> Routed:
        routed = call.routed()
        largest = routed.gates.amax(-1, keepdim=True)  # [token, 1]
        return routed._replace(gates=largest, experts=pick(routed).to(routed.experts.dtype))

    return change


def mask(experts: Collection[int]) -> Change:
    """Some experts are not there: the router chooses among the rest and weighs as its family does."""
    return lambda call: call.routed_without(experts)


def silence(off: Tensor) -> Change:
    """Gates are 0 at the slots `off` [batch, position, k] of bool, all others unchanged.

    Slots stand as the router gives them; nothing is chosen anew and nothing renormalised.
    """

    def change(call: Call) -> Routed:
        routed = call.routed()
        slots = _like_slots(off, routed)
        if slots.shape != routed.gates.shape:
            raise UserError(
                f"a token uses {routed.gates.shape[-1]} experts, slots of {slots.shape[-1]} are silenced"
            )
        return routed._replace(gates=routed.gates.masked_fill(slots, 0.0))

    return change


def force(experts: Tensor, gates: Tensor | None = None) -> Change:
    """Experts [batch, position, k], with `gates` of that shape or those that the family gives them."""

    def change(call: Call) -> Routed:
        routed = call.routed()
        chosen = _like_slots(experts, routed).to(routed.experts.dtype)
        if gates is None:
            return _weighed(call, routed.logits, chosen, routed.gates.dtype)
        return Routed(routed.logits, _like_slots(gates, routed).to(routed.gates.dtype), chosen)

    return change


def scale(factor: float) -> Change:
    """All gates times a factor."""

    def change(call: Call) -> Routed:
        routed = call.routed()
        return routed._replace(gates=routed.gates * factor)

    return change


CHANGES = {change.__name__: change for change in (keep, rank, alone, mask, silence, force, scale)}


def _by_gate(routed: Routed) -> Tensor:
    """Slots [token, k] by gate, the largest first."""
    return routed.gates.argsort(dim=-1, descending=True, stable=True)


def _weighed(call: Call, logits: Tensor, experts: Tensor, dtype: torch.dtype) -> Routed:
    return Routed(logits, call.gates(logits, experts).to(dtype), experts)


def _like_slots(values: Tensor, routed: Routed) -> Tensor:
    """Values [batch, position, k] as the router's own gates stand: [token, k]."""
    tokens = routed.gates.shape[:-1]
    if values.numel() != tokens.numel() * values.shape[-1]:
        raise UserError(
            f"routing is given for {values.shape[:-1].numel()} positions, the pass has {tokens.numel()}"
        )
    return values.to(routed.gates.device).reshape(*tokens, values.shape[-1])


@contextmanager
def routing(
    model: PreTrainedModel, change: Change, layers: Collection[int] | None = None
) -> Iterator[None]:
    """Inside it every pass of the model routes by a change in some MoE layers, or in all.

    The changed routing is what a `Capture` then reads, and what `recording` records. Raises UserError
    where a layer has no experts.
    """
    every = routers(model)
    for layer in layers or ():
        if layer not in every:
            raise UserError(f"{type(model).__name__}: layer {layer} has no experts")
    if not every:
        raise UserError(f"{type(model).__name__}: no layer has experts")
    with ExitStack() as stack:
        for layer in every if layers is None else layers:
            stack.enter_context(_changed(model, layer, every[layer], change))
        yield


@contextmanager
def _changed(
    model: PreTrainedModel, layer: int, router: nn.Module, change: Change
) -> Iterator[None]:
    """Inside it a router's forward is changed: no hook, so that whatever hooks it sees the change."""
    plain, own = router.forward, "forward" in vars(router)

    def forward(*given: Any, **named: Any) -> Any:
        call = Call(model, layer, router, lambda: plain(*given, **named))
        return write_routed(model, change(call))

    router.forward = forward
    try:
        yield
    finally:
        if own:
            router.forward = plain
        else:
            del router.forward


# --- routing of another pass --------------------------------------------------------------------


@contextmanager
def recording(model: PreTrainedModel, point: Point) -> Iterator[dict[int, Routed]]:
    """What the routers behind a hook point decided in the last pass, by layer.

    It stays empty where none is: in a dense model, and at the end of an MoE, where no routing can
    change. Raises UserError for a family that is not in the table of `families`: whether what its
    router gives is all that decides its routing is not known.
    """
    recorded: dict[int, Routed] = {}
    behind = {n: router for n, router in routers(model).items() if n >= point.feed_forwards}
    if behind and family_of(model) is None:
        raise UserError(
            f"{type(model).__name__}: how its routing is frozen is not known; set "
            "activations.routing to none to go on without it"
        )
    with ExitStack() as hooks:
        for layer, router in behind.items():

            def note(_: nn.Module, __: tuple, out: Any, layer: int = layer) -> None:
                routed = read_routed(model, out)
                if routed is None:
                    raise UserError(
                        f"{type(model).__name__}: what the router of layer {layer} returns cannot be "
                        "read, so its routing cannot be frozen; set activations.routing to none"
                    )
                recorded[layer] = routed

            hooks.callback(router.register_forward_hook(note).remove)
        yield recorded


@contextmanager
def freezing(model: PreTrainedModel, recorded: Mapping[int, Routed]) -> Iterator[None]:
    """Inside it the layers of `recorded`, as `recording` fills it, route as they did there."""
    with ExitStack() as stack:
        for layer, routed in recorded.items():
            change = force(routed.experts, routed.gates)
            stack.enter_context(routing(model, change, [layer]))
        yield
