"""What a dictionary in training minimises: losses of the residual, penalties of the code.

Each is a small function with a name that a recipe uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# --- losses: residual [row, D], widths d_s of the sources -> one number ---


def squared(residual: Tensor, widths: Sequence[int]) -> Tensor:
    """Squared error, a mean over rows and sources; at scale `total` it is 1 - pooled FVE."""
    return residual.square().sum() / (len(residual) * len(widths))


def norm(residual: Tensor, widths: Sequence[int]) -> Tensor:
    """Error norm, not squared, a mean over rows and sources (code of 2603.05805 and 2504.02922)."""
    parts = residual.split(list(widths), dim=1)
    return torch.stack([part.norm(dim=1).mean() for part in parts]).mean()


LOSSES: dict[str, Callable[[Tensor, Sequence[int]], Tensor]] = {"squared": squared, "norm": norm}


# --- penalties: code of a batch, settings -> one term an entry ---


@dataclass(frozen=True)
class Code:
    """The entries of a batch as penalties see them."""

    values: Tensor  # [n]
    sizes: Tensor  # [n], decoder norm of each entry's feature, summed over sources; see `sizes`
    steps: Tensor | None  # [n], 1 where it fires, with the gradient of its threshold


def l1(code: Code, settings: Mapping[str, Any]) -> Tensor:
    """Value times decoder norm (crosscoders, transformer-circuits.pub 2024)."""
    return code.values * code.sizes


def tanh(code: Code, settings: Mapping[str, Any]) -> Tensor:
    """tanh(scale * value * decoder norm): a soft count of what fires."""
    return torch.tanh(settings["scale"] * code.values * code.sizes)


def l0(code: Code, settings: Mapping[str, Any]) -> Tensor:
    """What fires, counted; its gradient reaches the thresholds of JumpReLU alone (2407.14435)."""
    if code.steps is None:
        raise TypeError("the penalty l0 needs a rule whose thresholds are learned")
    return code.steps


PENALTIES: dict[str, Callable[[Code, Mapping[str, Any]], Tensor]] = {
    "l1": l1,
    "tanh": tanh,
    "l0": l0,
}
