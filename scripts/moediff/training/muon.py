"""Muon: steps along momentum whose singular values were made equal, for matrices alone or in a stack."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from moediff.core.device import has_bfloat16

# All as in torch.optim.Muon, which takes parameters of two axes only; tests hold the two equal.
MOMENTUM = 0.95
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the quintic that draws singular values towards 1
ITERATIONS = 5
LEAST_NORM = 1e-7
ADAMW_RMS = 0.2  # of the entries of a step of AdamW at rate 1, about (2502.16982, section 2.2)


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon with `adjust_lr_fn="match_rms_adamw"`, over parameters that hold several matrices.

    A parameter is [..., fused * rows, columns]: its leading axes (experts) count matrices, and `fused`
    of them, a key of its group, lie under one another. Each moves as if it were alone. Rate and
    weight decay mean what they mean in AdamW.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "fused": 1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            same: dict[tuple[int, int], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    rows, columns = parameter.shape[-2] // group["fused"], parameter.shape[-1]
                    same.setdefault((rows, columns), []).append(parameter)
            for shape, parameters in same.items():
                self._step_of_shape(shape, parameters, group)

    def _step_of_shape(
        self, shape: tuple[int, int], parameters: list[Tensor], group: dict[str, Any]
    ) -> None:
        """Move parameters whose matrices have one shape: small products are faster many at a time."""
        directions = [self._direction(parameter).reshape(-1, *shape) for parameter in parameters]
        orthogonal = orthogonalised(torch.cat(directions))  # [matrix, rows, columns]
        rate = group["lr"] * ADAMW_RMS * math.sqrt(max(shape))
        moves = orthogonal.split([len(direction) for direction in directions])
        for parameter, move in zip(parameters, moves, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(move.reshape(parameter.shape), alpha=-rate)

    def _direction(self, parameter: Tensor) -> Tensor:
        """Nesterov's momentum of a parameter, its gradient taken in."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["momentum_buffer"], MOMENTUM)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices [matrix, rows, columns] with singular values of about 1 (0.7 to 1.2) in place of theirs.

    Newton-Schulz iterations in bfloat16 where the device is fast at it, as torch has them, else in
    float32. A matrix of zeros stays one.
    """
    a, b, c = COEFFICIENTS
    dtype = torch.bfloat16 if has_bfloat16(matrices.device) else torch.float32
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(dtype)  # [matrix, short, long]
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=LEAST_NORM)  # none above 1
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # [matrix, short, short]
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
