"""Arguments of a forward pass over packed sequences."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moediff.corpus.packing import segment_positions
from moediff.models.families import ignores_packing, needs_four_positions
from moediff.models.placement import input_device

Inputs = dict[str, Tensor | bool | dict[str, Tensor]]


def model_inputs(tokens: np.ndarray, starts: np.ndarray, device: torch.device | str) -> Inputs:
    """Arguments of a forward pass over packed sequences [batch, position].

    Positions count from 0 in every segment. transformers reads such positions, without an
    attention mask, as packed sequences and keeps attention inside each.
    """
    positions = torch.from_numpy(segment_positions(starts)).to(device)
    return {
        "input_ids": torch.from_numpy(tokens.astype(np.int64)).to(device),
        "position_ids": positions,
        "use_cache": False,
    }


def packed_inputs(model: PreTrainedModel, tokens: np.ndarray, starts: np.ndarray) -> Inputs:
    """`model_inputs` on the model's own device, with the masks or positions that the family needs.

    A family that ignores packing would let attention cross documents (seen in transformers 5.23).
    `proofs.prove_packing` proves of every model that it does not.
    """
    device = input_device(model)
    inputs = model_inputs(tokens, starts, device)
    config = model.config.get_text_config()
    if needs_four_positions(model):
        positions = inputs["position_ids"]
        inputs["position_ids"] = torch.stack([positions] * 4)  # type: ignore[list-item]  # a Tensor
    if ignores_packing(model):
        segment = torch.from_numpy(starts.cumsum(1)).to(device)
        inputs["attention_mask"] = {
            "full_attention": _mask(segment, None, model.dtype),
            "sliding_attention": _mask(segment, config.sliding_window, model.dtype),
        }
    return inputs


def _mask(segment: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
    """What is added to attention [batch, 1, query, key]: 0 where a query sees a key."""
    place = torch.arange(segment.shape[1], device=segment.device)
    distance = place[:, None] - place[None]
    seen = (segment[:, :, None] == segment[:, None]) & (distance >= 0)
    if window is not None:
        seen &= distance < window
    hidden = torch.finfo(dtype).min
    return torch.where(seen, 0.0, hidden).to(dtype)[:, None]
