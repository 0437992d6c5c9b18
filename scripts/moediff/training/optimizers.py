"""Which optimizer moves which parameter.

An entry of `OPTIMIZERS` is a function of a model and a plan: optimizers that hold each parameter that
learns once, between them. Add one here and to `OPTIMIZERS`, its name to `training.optimizer` in
config/schema.yaml, and what it keeps of a parameter to core/checkpoint.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from transformers import PreTrainedModel

from moediff.models.build import FUSED
from moediff.models.families import blocks, routers
from moediff.training.muon import Muon
from moediff.training.plan import Plan


def adamw(model: PreTrainedModel, plan: Plan) -> list[torch.optim.Optimizer]:
    """AdamW for every parameter."""
    return [_adamw(model.parameters(), plan)]


def muon(model: PreTrainedModel, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the decoder blocks, and AdamW for all else.

    All else is embeddings, unembedding, norms, biases and routers: tables whose rows are met one at
    a time or choose experts, and what is no matrix.
    """
    matrices = hidden_matrices(model)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [
        {"params": [p for n, p in matrices.items() if n in learning and _fused(n) == fused],
         "fused": fused}
        for fused in sorted({1, *FUSED.values()})
    ]  # fmt: skip
    rest = (p for name, p in model.named_parameters() if name not in matrices)
    return [Muon(groups, plan.peak_lr, plan.weight_decay), _adamw(rest, plan)]


OPTIMIZERS: dict[str, Callable[[PreTrainedModel, Plan], list[torch.optim.Optimizer]]] = {
    "adamw": adamw,
    "muon": muon,
}


def hidden_matrices(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Parameters by name that are matrices, or stacks of them, between hidden states of the stream."""
    inside = {id(part) for block in blocks(model) for part in block.parameters()}
    inside -= {id(part) for router in routers(model).values() for part in router.parameters()}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2 and id(parameter) in inside
    }


def _fused(name: str) -> int:
    """Matrices that lie under one another in a parameter."""
    return FUSED.get(name.rpartition(".")[-1], 1)


def _adamw(parameters: Iterable[nn.Parameter], plan: Plan) -> torch.optim.AdamW:
    """Fused AdamW over the parameters that learn; weight decay on matrices only."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim >= 2], "weight_decay": plan.weight_decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.peak_lr, betas=plan.betas, fused=True)
