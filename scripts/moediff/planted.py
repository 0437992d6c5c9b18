"""Worlds with known truth: rows made from features whose owners are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Planted:
    """Rows of two sources and the features that made them."""

    rows: tuple[np.ndarray, np.ndarray]  # [row, d_s]
    directions: np.ndarray  # [feature, D], zeros in a source that lacks the feature
    owner: np.ndarray  # [feature]: "common", "A-only" or "B-only"


def planted(
    rows: int,
    widths: tuple[int, int],
    features: int,
    common: float,
    active: int,
    seed: int,
) -> Planted:
    """Two sources that share a part `common` of their features, the rest split evenly.

    Each row is the sum of `active` features drawn at random, each with an exponential strength;
    directions are random unit vectors, independent in each source.
    """
    random = np.random.default_rng(seed)
    shared = round(common * features)
    alone = (features - shared) // 2
    owner = np.array(
        ["common"] * shared + ["A-only"] * alone + ["B-only"] * (features - shared - alone)
    )
    parts = [random.normal(size=(features, width)) for width in widths]
    parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    parts[0][owner == "B-only"] = 0
    parts[1][owner == "A-only"] = 0
    chosen = np.argpartition(random.random((rows, features)), active, axis=1)[:, :active]
    codes = np.zeros((rows, features), np.float32)
    np.put_along_axis(codes, chosen, random.exponential(size=(rows, active)) + 0.1, axis=1)
    made = tuple((codes @ part).astype(np.float32) for part in parts)
    return Planted((made[0], made[1]), np.concatenate(parts, axis=1), owner)
