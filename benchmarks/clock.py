"""Seconds of work on a device that computes while its program goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def settled(device: torch.device) -> float:
    """The time, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Seconds that `times` calls of `work` take together."""
    start = settled(device)
    for _ in range(times):
        work()
    return settled(device) - start
