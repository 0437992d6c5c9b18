"""Activations of a running model changed at a hook point (`hooks.routing` changes its routing).

    with intervene(model, point, replace(rows), mask): ...     # every pass inside is edited

An edit is a function of the rows at a point. Contexts nest: the innermost edit of a point acts last. What
an edit leaves as it is stays so to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.core.errors import UserError
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point, adder, first_output, stream_of
from moediff.models.families import blocks, residual_scale

Edit = Callable[[Tensor], Tensor]  # rows [row, d_model] at a point -> those in their place


def replace(values: Tensor) -> Edit:
    """Other rows: `values` [row, d_model], or one [d_model] for all."""
    return lambda rows: _fitting(values, rows).expand_as(rows)


def add(values: Tensor) -> Edit:
    """The rows with `values` [row, d_model], or one direction [d_model] for all, added to them."""
    return lambda rows: rows + _fitting(values, rows)


def ablate(mean: Tensor | None = None) -> Edit:
    """Zeros, or the `mean` [d_model], instead of the rows."""
    return torch.zeros_like if mean is None else replace(mean)


EDITS = {edit.__name__: edit for edit in (replace, add, ablate)}


def _fitting(values: Tensor, rows: Tensor) -> Tensor:
    if values.shape not in (rows.shape, rows.shape[-1:]):
        raise UserError(
            f"values {tuple(values.shape)} do not fit the rows {tuple(rows.shape)} that are edited; "
            "give one for each, or one for all"
        )
    return values.to(rows.device)


@contextmanager
def intervene(model: PreTrainedModel, point: Point, edit: Edit, mask: Tensor) -> Iterator[None]:
    """Inside it every pass of the model has edited rows at a hook point.

    `mask` [batch, position] of bool says which positions of the pass are edited, row after row; all
    others keep their own. Rows of resid_pre and resid_post are put in place exactly. Of the others the
    part's output is chosen so that the block makes the row of it: exactly where the edit leaves an
    element as it is (and no gradient of it is asked for), else to the roundings of what the block does:
    resid_mid of value v is resid_pre + (v - resid_pre), and Granite multiplies what was divided. Raises
    UserError where the point does not exist or values do not fit.
    """
    with Capture(model, [point]):
        pass  # refuses a point that the model does not have
    with ExitStack() as hooks:
        for handle in _edited(model, point, edit, mask):
            hooks.callback(handle.remove)
        yield


def _edited(model: PreTrainedModel, point: Point, edit: Edit, mask: Tensor) -> list[Any]:
    """Handles of the hooks that put rows in place; see the table of `points` for the points."""
    block, hook = blocks(model)[point.layer], point.hook
    scale = 1.0 if hook in ("resid_pre", "resid_post") else residual_scale(block)
    entered: list[Tensor] = []  # resid_pre of the pass under way, where resid_mid is edited

    def put(given: Tensor) -> Tensor:
        """What a part gives, changed so that the rows at the point are the edited ones."""
        # It may be [token, d_model] (the feed-forward of Llama 4).
        where = mask.to(given.device).reshape(given.shape[:-1])
        own = given[where]  # [row, d_model]
        # What enters may still be on the device of the block before.
        before = entered.pop().to(own.device)[where] if entered else 0.0
        rows = before + own * scale  # as the block adds it
        new = edit(rows).to(own.device)
        back = ((new.double() - before) / scale).to(own.dtype)
        # Rounding would not give back an element that is as it was; a gradient must pass through.
        same = (new.to(own.dtype) == rows) & (not new.requires_grad)
        return given.masked_scatter(where[..., None], torch.where(same, own, back))

    def enter(_: nn.Module, given: tuple, named: dict) -> tuple[tuple, dict]:
        stream = put(stream_of(given, named))
        return (
            ((stream, *given[1:]), named) if given else (given, named | {"hidden_states": stream})
        )

    def note(_: nn.Module, given: tuple, named: dict) -> None:
        entered[:] = [stream_of(given, named)]

    def leave(_: nn.Module, __: tuple, out: Any) -> Any:
        stream = put(first_output(out))
        return stream if isinstance(out, Tensor) else (stream, *out[1:])

    if hook == "resid_pre":
        return [block.register_forward_pre_hook(enter, with_kwargs=True)]
    if hook == "resid_post":
        return [block.register_forward_hook(leave)]
    if hook == "resid_mid":  # by what attention adds, since no part of its own gives it
        return [
            block.register_forward_pre_hook(note, with_kwargs=True),
            adder(model, block, "attn_out").register_forward_hook(leave),
        ]
    return [adder(model, block, hook).register_forward_hook(leave)]
