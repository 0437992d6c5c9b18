"""Worlds with known truth: rows of several sources made from features whose owners are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Planted:
    """Rows of some sources and the features that made them."""

    rows: list[np.ndarray]  # of each source, [row, d_s]
    directions: np.ndarray  # [feature, D], zeros in a source that lacks the feature
    owners: np.ndarray  # [feature, source] of bool


def planted(
    rows: int,
    widths: tuple[int, ...],
    owners: np.ndarray,
    active: int,
    seed: int,
    missed: float = 0.0,
    noise: float = 0.0,
) -> Planted:
    """Sources that have the features `owners` [feature, source] says.

    Each row is the sum of `active` features drawn at random, each with an exponential strength;
    directions are random unit vectors, independent in each source. A source that has a drawn
    feature misses it with probability `missed`, on its own. `noise` is the standard deviation of
    what is added to every number.
    """
    random = np.random.default_rng(seed)
    features = len(owners)
    parts = [random.normal(size=(features, width)) for width in widths]
    for source, part in enumerate(parts):
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        part[~owners[:, source]] = 0
    chosen = np.argpartition(random.random((rows, features)), active, axis=1)[:, :active]
    codes = np.zeros((rows, features), np.float32)
    np.put_along_axis(codes, chosen, random.exponential(size=(rows, active)) + 0.1, axis=1)
    made = []
    for part in parts:
        seen = codes * (random.random(codes.shape) >= missed) if missed else codes
        found = (seen @ part).astype(np.float32)
        made.append(found + noise * random.standard_normal(found.shape, np.float32))
    return Planted(made, np.concatenate(parts, axis=1), owners)


def owned(
    sources: int, everyone: int = 0, first: int = 0, second: int = 0, private: int = 0
) -> np.ndarray:
    """Owners [feature, source] of `everyone` features that all sources have, `first` of the first half of
    them alone, `second` of the other half, and `private` of one source each, source after source."""
    half = np.arange(sources) < sources / 2
    kinds = [(np.ones(sources, bool), everyone), (half, first), (~half, second)]
    rows = [row for row, count in kinds for _ in range(count)]
    rows += [np.arange(sources) == number % sources for number in range(private)]
    return np.array(rows)
