"""Recipes and settings of small planted worlds."""

from __future__ import annotations

from conftest import PRESETS, SCHEMA
from moediff.config import schema
from moediff.synthetic.grid import CHOOSE, SCORE

OURS = schema.defaults(SCHEMA, "recipe")
MODELS = {"models": {"m": {"rows": {"fit": "a", "validation": "b"}}}}
PAPER = schema.fill(
    {**MODELS, "comparisons": {"c": {"each": ["m"]}}, "recipes": {"p": {"preset": "2603.05805"}}},
    SCHEMA, PRESETS,
)["recipes"]["p"]  # fmt: skip
SETTINGS = {
    "models": 2, "rows": 6000, "validation": 2000, "width": 16, "features": 20, "active": 2,
    "steps": 150, "batch": 256, "lr": 0.02, "seeds": {CHOOSE: [0], SCORE: [1, 2]},
    "base": {"scale": 1, "basis": "independent", "missed": 0, "noise": 0.02, "unique": 0.3,
             "strength": None, "penetrance": 1, "variation": 0, "zipf": 0, "correlation": 0, "children": 0},
    "factors": {"scale": [1, 10], "unique": [0, 0.3]},
}  # fmt: skip
