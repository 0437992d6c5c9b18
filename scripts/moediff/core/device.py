"""Where a job computes, and how finely; apart from the models, which are slow to import."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from moediff.core.errors import UserError


def pick_device(wanted: str) -> torch.device:
    """`auto` is CUDA when there is one; a device that is missing is refused."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda is asked for and there is none; set device to auto or cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA devices that have it, else float32."""
    if wanted == "auto":
        fits = device.type == "cuda" and torch.cuda.is_bf16_supported()
        wanted = "bfloat16" if fits else "float32"
    return getattr(torch, wanted)


def has_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are done by instructions of their own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager:
    """Within it products are computed at a precision; nothing changes at float32."""
    if precision == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=precision)
