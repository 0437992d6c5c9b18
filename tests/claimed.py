"""Claims and findings made by hand, for the tests of how they are read and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from moediff.claims.judging import judge
from moediff.claims.metrics import ORDERS
from moediff.claims.reading import read_claims
from moediff.core.resampling import relabelled
from moediff.core.terms import KNOWN, LABELLINGS, PERMUTED
from workflow import ROOT

SHIPPED = ROOT / "config" / "claims.yaml"
ROW = {
    "paper": "2603.05805", "statement": "It is so.", "contrast": "one against the other",
    "null": PERMUTED, "direction": "above", "minimum_effect": 0.5, "fidelity": "faithful",
}  # fmt: skip
CLAIMS = {
    "alpha": 0.05,
    "primary": {
        "moe": "moe", "dense": "dense", "hook": "resid_post", "layer": 0.5, "recipe": "default",
        "features": 64, "k": 4, "bounds": [0.3, 0.7], "user_floor": 0.2,
    },
    "penalties": {"strong": "paper", "weak": "paper-weak"},
    "limits": {
        "nats_over_trigram": 0.1, "firings_per_feature": 100, "moved": 0.1, "rotated": 0.05,
        "permuted": 0.95,
    },
    "claims": [
        ROW | {"id": "margin", "metric": "density_order_margin", "primary": True},
        ROW | {"id": "fewer", "metric": "log2_moe_only_over_dense_only", "direction": "below",
               "primary": True},
        ROW | {"id": "panel", "metric": "panel_moe_only_variance", "null": LABELLINGS,
               "primary": True, "minimum_effect": 0.01},
        ROW | {"id": "level", "metric": "fve_pooled", "null": KNOWN, "direction": "near",
               "reference": 0.87, "minimum_effect": 0.05},
        ROW | {"id": "second", "metric": "panel_either_variance", "null": LABELLINGS},
        ROW | {"id": "gain", "metric": "fve_gain_shared_penalty", "null": KNOWN, "reference": 0,
               "minimum_effect": 0.01},
    ],
}  # fmt: skip


def read(folder: Path, claims: Any) -> dict:
    path = folder / "claims.yaml"
    path.write_text(claims if isinstance(claims, str) else yaml.safe_dump(claims), encoding="utf-8")
    return read_claims(path)


def permuted(estimate: float, interval: list, above: float, below: float) -> dict:
    """A finding of pairs, its null symmetric about 0."""
    return {
        "estimate": estimate,
        "interval": interval,
        "p": {"above": above, "below": below, "smallest": 1 / 70},
        "null": {"kind": PERMUTED, "labellings": 69, "q05": -1.0, "q50": 0.0, "q95": 1.0},
    }


def order(first: dict, second: dict) -> dict:
    """A finding of the order of three densities."""
    return {"steps": dict(zip(ORDERS["density_order_margin"], (first, second), strict=True))}


def panel(true: float, largest: float = 0.04) -> dict:
    """A finding of a panel of 4 + 4 models, its null from 0.02 to `largest`."""
    return relabelled([true, *np.linspace(0.02, largest, 69)], LABELLINGS) | {
        "interval": [true - 0.01, true + 0.01]
    }


def verdicts(claims: dict, findings: dict, **given: Any) -> dict:
    found = judge(claims, findings, given.pop("analysis", claims["primary"]), **given)
    return {row["id"]: row for row in found["claims"]}
