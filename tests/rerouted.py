"""Tiny MoEs of every family on packed text, and the routing that they used."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from families import MOE_FAMILIES
from moediff.hooks.capture import Capture, Routing
from moediff.hooks.points import Point
from moediff.models.inputs import packed_inputs

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(1, 60, (2, 12))
STARTS = np.zeros(TOKENS.shape, bool)
STARTS[:, 0] = STARTS[0, 5] = STARTS[1, 9] = True
MASK = torch.from_numpy((RANDOM.random(TOKENS.shape) < 0.6) & ~STARTS)  # where rows are replaced
EVERY = [*MOE_FAMILIES, "llama4"]  # all of the table
LAYER = 1  # of an MoE in all of them


def inputs_of(model) -> dict:
    return packed_inputs(model, TOKENS, STARTS)


def logits(model) -> Tensor:
    with torch.no_grad():
        return model(**inputs_of(model)).logits


def routed(model, layer: int = LAYER) -> Routing:
    """What a layer used in a pass as the model now is."""
    with Capture(model, [Point("resid_post", layer)], routing=True) as capture:
        return capture(**inputs_of(model)).routing[layer]


def table(used: Routing, experts: int = 8) -> Tensor:
    """Gates [token, expert], 0 for what is not used."""
    chosen, gates = used.experts.flatten(0, 1), used.gates.flatten(0, 1)
    return torch.zeros(len(chosen), experts).scatter_add(1, chosen, gates.float())
