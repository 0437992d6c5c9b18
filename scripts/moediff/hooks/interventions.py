"""A running model changed: activations replaced at a hook point, routing recorded, held or masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.core.errors import UserError
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point, adder, first_output, stream_of
from moediff.models.families import blocks, family_of, find_router, residual_scale


@contextmanager
def replacing(
    model: PreTrainedModel,
    point: Point,
    values: Tensor,
    mask: Tensor,
    routing: Mapping[int, Any] | None = None,
) -> Iterator[None]:
    """Inside it every pass of the model has `values` [row, d_model] at a hook point.

    `mask` [batch, position] says at which positions of the pass, row after row; all others keep
    their own. With `routing`, as `recording` fills it, its layers route as they did there.
    Raises UserError where the point does not exist or values do not fit.
    """
    with Capture(model, [point]):
        pass  # refuses a point that the model does not have
    wanted = (int(mask.sum()), model.config.get_text_config().hidden_size)
    if tuple(values.shape) != wanted:
        raise UserError(f"{point}: {wanted} values are replaced, {tuple(values.shape)} are given")
    with ExitStack() as hooks:
        for handle in _replace(model, point, values, mask):
            hooks.callback(handle.remove)
        for layer, given in (routing or {}).items():
            router = find_router(model, blocks(model)[layer])
            handle = router.register_forward_hook(lambda _, __, ___, given=given: given)
            hooks.callback(handle.remove)
        yield


def _replace(model: PreTrainedModel, point: Point, values: Tensor, mask: Tensor) -> list[Any]:
    """Handles of the hooks that put rows in place; see the table of `hooks` for the points."""
    block, hook = blocks(model)[point.layer], point.hook
    scale = residual_scale(block)
    entered: list[Tensor] = []  # resid_pre of the pass under way

    def put(stream: Tensor, rows: Tensor) -> Tensor:
        # A stream may be [token, d_model] (the feed-forward of Llama 4).
        where = mask.to(stream.device).reshape(*stream.shape[:-1], 1)
        return stream.masked_scatter(where, rows.to(stream))

    def put_first(out: Any, rows: Tensor) -> Any:
        value = put(first_output(out), rows)
        return value if isinstance(out, Tensor) else (value, *out[1:])

    def enter(_: nn.Module, given: tuple, named: dict) -> tuple[tuple, dict]:
        value = put(stream_of(given, named), values)
        return ((value, *given[1:]), named) if given else (given, named | {"hidden_states": value})

    def note(_: nn.Module, given: tuple, named: dict) -> None:
        entered[:] = [stream_of(given, named)]

    def leave(_: nn.Module, __: tuple, out: Any) -> Any:
        return put_first(out, values)

    def add(_: nn.Module, __: tuple, out: Any) -> Any:
        return put_first(out, values / scale)

    def add_to_middle(_: nn.Module, __: tuple, out: Any) -> Any:
        before = entered.pop()
        return put_first(out, (values - before[mask.to(before.device)].to(values)) / scale)

    if hook == "resid_pre":
        return [block.register_forward_pre_hook(enter, with_kwargs=True)]
    if hook == "resid_post":
        return [block.register_forward_hook(leave)]
    if hook == "resid_mid":  # by what attention adds, since no part of its own gives it
        return [
            block.register_forward_pre_hook(note, with_kwargs=True),
            adder(model, block, "attn_out").register_forward_hook(add_to_middle),
        ]
    return [adder(model, block, hook).register_forward_hook(add)]


@contextmanager
def recording(model: PreTrainedModel, point: Point) -> Iterator[dict[int, Any]]:
    """What the routers behind a hook point gave in the last pass, by layer.

    It stays empty where none is: in a dense model, and at the end of an MoE, where no routing can
    change. Raises UserError for a family that is not in the table of `families`: whether what its
    router gives is all that decides its routing is not known.
    """
    found: dict[int, Any] = {}
    with ExitStack() as hooks:
        for layer, block in list(enumerate(blocks(model)))[point.feed_forwards :]:
            router = find_router(model, block)
            if router is None:
                continue
            if family_of(model) is None:
                raise UserError(
                    f"{type(model).__name__}: how its routing is frozen is not known; set "
                    "activations.routing to none to go on without it"
                )

            def note(_: nn.Module, __: tuple, out: Any, layer: int = layer) -> None:
                found[layer] = out

            hooks.callback(router.register_forward_hook(note).remove)
        yield found


@contextmanager
def masked_gates(model: PreTrainedModel, layer: int, off: Tensor) -> Iterator[None]:
    """While it lasts, the gates of a MoE layer are 0 at `off` [position, k], all others unchanged.

    Positions are those of the whole batch, flattened; slots stand as the router gives them. Raises
    UserError where the layer is dense, or its router does not return the gates of the experts that
    it chose (as Llama 4's, which scale what goes in).
    """
    router = find_router(model, blocks(model)[layer])
    if router is None:
        raise UserError(f"{type(model).__name__}: layer {layer} has no experts")

    def mask(_: Any, __: tuple, out: Any) -> tuple:
        given = out if isinstance(out, tuple) and len(out) == 3 else (None, None, None)
        logits, gates, experts = given
        if gates is None or gates.shape != experts.shape or gates.numel() != off.numel():
            raise UserError(
                f"{type(model).__name__}: the router of layer {layer} does not return gates of the "
                "experts that it chose, so none can be masked"
            )
        return logits, gates.masked_fill(off.to(gates.device).view(gates.shape), 0.0), experts

    handle = router.register_forward_hook(mask)
    try:
        yield
    finally:
        handle.remove()
