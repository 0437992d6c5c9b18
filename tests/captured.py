"""Activations of tiny models of every family, read at hook points."""

from __future__ import annotations

import numpy as np

from moediff.hooks.capture import Capture
from moediff.hooks.points import HOOKS, Point
from moediff.models.inputs import model_inputs

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(1, 60, (2, 12))
STARTS = np.zeros(TOKENS.shape, bool)
STARTS[:, 0] = STARTS[0, 5] = STARTS[1, 9] = True
PACKED = model_inputs(TOKENS, STARTS, "cpu")
WHOLE_STARTS = np.arange(12) == np.zeros((2, 1))
WHOLE = model_inputs(TOKENS, WHOLE_STARTS, "cpu")


def every_point(layers: int = 3) -> list[Point]:
    return [Point(hook, layer) for layer in range(layers) for hook in HOOKS]


def read(model, points: list[Point], inputs: dict = WHOLE, **settings: bool):
    with Capture(model, points, **settings) as capture:
        return capture(**inputs)
