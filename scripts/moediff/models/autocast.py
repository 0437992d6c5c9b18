"""Fused experts in the dtype of autocast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward


def follow_autocast(model: PreTrainedModel) -> None:
    """Make fused experts compute in the dtype of autocast, as every linear layer does.

    torch's grouped product is not on autocast's list: without this an MoE's experts would run in
    the masters' float32 beside a dense feed-forward in bfloat16.
    """
    ALL_EXPERTS_FUNCTIONS.register("autocast", _autocast_experts)
    model.set_experts_implementation("autocast")


class _Narrowed:
    """An experts module whose parameters are seen in another dtype; gradients reach the masters."""

    def __init__(self, experts: nn.Module, dtype: torch.dtype) -> None:
        self.experts, self.dtype = experts, dtype

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.experts, name)
        return value.to(self.dtype) if isinstance(value, nn.Parameter) else value


def _autocast_experts(experts: nn.Module, hidden: Tensor, *routing: Tensor) -> Tensor:
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        narrowed = _Narrowed(experts, torch.get_autocast_dtype(kind))
        experts = narrowed  # type: ignore[assignment]  # it has all that they are asked for
    return grouped_mm_experts_forward(experts, hidden, *routing)
