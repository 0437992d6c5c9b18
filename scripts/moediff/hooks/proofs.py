"""Proofs on a real pass that hook points are what they are said to be, and segments stay apart.

A family that breaks either would give wrong rows without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.core.errors import UserError
from moediff.hooks.capture import Capture
from moediff.hooks.points import HOOKS, Point, first_output, stream_of
from moediff.models.families import backbone, blocks
from moediff.models.inputs import packed_inputs

# Two sums of the same three parts round four times in all, each by half an epsilon at most.
_ROUNDING = 2
# Share of a row that may change with other positions: experts then get other groups of rows, which
# rounds differently.
_UNSEEN = 1e-3


# --- the parts of a block -------------------------------------------------------------------------


def prove(model: PreTrainedModel, points: Sequence[Point], inputs: dict[str, Any]) -> None:
    """Check on one real pass that the parts at the points' layers are what they are said to be.

    Some part after attention must read resid_pre + attn_out, which shows both attn_out and resid_mid;
    resid_pre + attn_out + mlp_out must be resid_post, which shows attn_out and mlp_out. Both to the
    rounding of the model's dtype. resid_pre and resid_post need no proof. Raises UserError.
    """
    for layer in sorted({p.layer for p in points if p.hook not in ("resid_pre", "resid_post")}):
        wanted = {point.hook for point in points if point.layer == layer}
        holds = _holding(model, layer, inputs)
        wrong = [hook for hook in HOOKS if hook in wanted - holds]
        if wrong:
            reason = "nothing there reads resid_pre + attn_out"
            if "mlp_out" in holds:
                reason = "attention and feed-forward run side by side"
            elif "mlp_out" in wrong:
                reason = "resid_pre + attn_out + mlp_out is not resid_post"
            raise UserError(
                f"{type(model).__name__}: {' and '.join(wrong)} cannot be read in layer {layer}: "
                f"{reason}; take {', '.join(hook for hook in HOOKS if hook in holds)}"
            )


def _holding(model: PreTrainedModel, layer: int, inputs: dict[str, Any]) -> set[str]:
    """The hooks that are what they are said to be in a layer."""
    every = [Point(hook, layer) for hook in HOOKS]
    with Capture(model, every) as capture:
        read = _inputs_of_parts(blocks(model)[layer], capture.handles)
        found = capture(**inputs).points
    device = found[every[-1]].device
    pre, attended, middle, fed, post = (found[point].to(device) for point in every)
    holds = {"resid_pre", "resid_post"}
    if any(part.shape == middle.shape and _agree(part, middle, pre, attended) for part in read):
        holds |= {"attn_out", "resid_mid"}
        if _agree(middle + fed, post, middle, fed):
            holds.add("mlp_out")
    elif _agree(pre + attended + fed, post, pre, attended, fed):
        holds |= {"attn_out", "mlp_out"}
    return holds


def _inputs_of_parts(block: nn.Module, handles: list[Any]) -> list[Tensor]:
    """A list that fills with what the parts of a block are given, once it runs."""
    read: list[Tensor] = []

    def note(_: nn.Module, given: tuple) -> None:
        if given and isinstance(given[0], Tensor):
            read.append(given[0])

    handles += [part.register_forward_pre_hook(note) for part in block.children()]
    return read


def _agree(one: Tensor, other: Tensor, *summands: Tensor) -> bool:
    """Whether two tensors agree to the rounding of sums of `summands`, element by element."""
    if not one.shape == other.shape == summands[0].shape:
        return False
    room = sum(part.float().abs() for part in (other, *summands))
    allowed = _ROUNDING * torch.finfo(other.dtype).eps * room
    return bool(((one.to(other.device).float() - other.float()).abs() <= allowed).all())


# --- packed sequences ---------------------------------------------------------------------------


@torch.no_grad()
def prove_packing(model: PreTrainedModel, tokens: np.ndarray, starts: np.ndarray) -> None:
    """Check that a segment of packed tokens [sequence, position] is as if it were alone.

    It must enter the first block as it does alone (learnt positions start anew), and no block may
    change it when what stands before it changes (attention, or a recurrent state, that crosses).
    Of the sequences the first that has two segments is tried. Raises UserError.
    """
    several = np.flatnonzero(starts[:, 1:].any(1))
    if not len(several):
        return
    row = several[:1]
    first = int(np.flatnonzero(starts[row[0]])[-1])
    inputs = packed_inputs(model, tokens[row], starts[row])
    point = Point("resid_pre", 0)
    with Capture(model, [point]) as capture:
        packed = capture(**inputs).points[point][:, first:]
        own = packed_inputs(model, tokens[row, first:], starts[row, first:])
        alone = capture(**own).points[point]
    advice = "set corpus.sequence.attend_across_documents to true"
    if not _agree(packed, alone, alone):
        raise UserError(
            f"{type(model).__name__}: its positions do not start anew in each document of a "
            f"sequence; {advice}"
        )
    for layer, share in enumerate(_crossing(model, inputs, first)):
        if share > max(_ROUNDING * torch.finfo(alone.dtype).eps, _UNSEEN):
            raise UserError(
                f"{type(model).__name__}: layer {layer} sees across the documents of a sequence "
                f"(other text before one changes it by {share:.1%}); {advice}"
            )


def _crossing(model: PreTrainedModel, inputs: dict[str, Any], first: int) -> list[float]:
    """By how much each block's output from position `first` on depends on what enters before it.

    A block runs twice on the same input, of which only the positions before `first` differ. The row
    that moves most counts, relative to its size. Inputs are those of the pass, so that rounding does
    not add up from block to block and no router tips over.
    """
    shares: list[float] = []

    def compare(block: nn.Module, given: tuple, named: dict[str, Any]) -> None:
        def run(hidden: Tensor) -> Tensor:
            if given:
                return first_output(block.forward(hidden, *given[1:], **named))[:, first:].float()
            return first_output(block.forward(**named | {"hidden_states": hidden}))[
                :, first:
            ].float()

        one, other = stream_of(given, named).clone(), stream_of(given, named).clone()
        # Other rows of the same size; not a change of sign, which a product of two would undo.
        other[:, :first] = other[:, :first].roll(1, -1)
        one, other = run(one), run(other)
        size = one.norm(dim=-1).clamp_min(torch.finfo(one.dtype).tiny)
        shares.append(float(((one - other).norm(dim=-1) / size).max()))

    handles = [b.register_forward_pre_hook(compare, with_kwargs=True) for b in blocks(model)]
    try:
        backbone(model)(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return shares
