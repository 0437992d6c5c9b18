"""How alike the rows of two sources are, with no dictionary between them.

Four measures that no rotation, shift or scale of a source's basis changes:

    linear CKA   |X'Y|^2 / (|X'X| |Y'Y|) of rows about their mean (Kornblith et al. 2019, 1905.00414)
    Procrustes   sum of the singular values of A'B, where A and B are the rows in their first principal
                 components, of norm 1 (Williams et al. 2021, 2110.14739)
    neighbours   share of the NEAREST nearest rows of a row in one source that are so in the other too, a
                 mean over rows (Huh et al. 2024, 2405.07987)
    ridge        R2 of a ridge regression from the first principal components of one source to all of the
                 other, fitted on one half of the text and measured on the other; a mean both ways

Rows that have nothing in common are alike to some degree too, wide ones more. So each value stands beside
those of permuted rows of the second source (that of ridge beside 0: to rows of its other half chance says
nothing), and the *calibrated* one counts from their 95 % quantile q, (s - q) / (1 - q), at least 0 (Groeger
et al. 2026, 2602.14486). One less the calibrated similarity is what is taken for a squared distance (our
definition).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from moediff.activations.groups import HALVES
from moediff.activations.rows import HALF, AlignedRows
from moediff.core.errors import UserError

ROWS = 4096  # that are compared: each with every other, for neighbours
LEAST_ROWS = 64
COMPONENTS = 32  # principal components of Procrustes
NEAREST = 10
PERMUTED = 40  # permutations that a level by chance is read off
LEVEL = 0.95
AT_ONCE = 512  # rows whose distances to all others are held at once
REGRESSORS = 256  # principal components that a ridge regression reads, at most
# Its strengths, against a total variance of 1: half decades. The rows it is fitted on tell which is taken.
STRENGTHS = tuple(10.0 ** (step / 2) for step in range(-20, 3))
COLUMNS = {
    "measure": pl.String, "first": pl.String, "second": pl.String, "similarity": pl.Float64,
    "chance": pl.Float64, "calibrated": pl.Float64,
}  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """What is made of a source's rows [n, d] and their half of the text [n], and how two are compared.

    `compare` takes what was made of either, and the order in which the second's rows are taken. `by_chance`:
    whether rows that have nothing in common have a similarity above 0.
    """

    prepare: Callable[[Tensor, Tensor], Any]
    compare: Callable[[Any, Any, Tensor], float]
    by_chance: bool = True


def sample(data: AlignedRows, most: int = ROWS) -> tuple[list[Tensor], Tensor]:
    """At most so many rows of every source, spread evenly over its shards: float64 [n, d_s] each.

    And the half of the text [n] that each row is of, 0 or 1; no group of documents is in both. Raises
    UserError where there are fewer than LEAST_ROWS, or a half has none.
    """
    if data.count < LEAST_ROWS:
        raise UserError(
            f"{data.count} validation rows: fewer than {LEAST_ROWS} tell nothing of how alike sources are; "
            "raise corpus.tokens.validation"
        )
    step = -(-data.count // most)
    keep = data.select(lambda chunk: (chunk.first + np.arange(chunk.size)) % step == 0)
    parts = zip(*data.selected(keep, most), strict=True)
    rows = [torch.cat(part).double() for part in parts]
    half = np.concatenate([data.column_of(c, HALF)[keep.of(c.number)] for c in data.chunks])
    if min(np.bincount(half, minlength=HALVES)) < 2:
        raise UserError(
            "the validation rows are of one group of documents: half of the text, to be read off the other, "
            "needs two or more; give more text"
        )
    return rows, torch.from_numpy(half)


def similarities(
    rows: Sequence[Tensor], half: Tensor, names: Sequence[str], seed: int = 0
) -> pl.DataFrame:
    """COLUMNS of every measure and pair of sources, from the same rows [n, d_s] of each.

    `half` [n] is the half of the text that a row is of. Permutations are the same for all. Memory: the
    rows of all sources twice, and AT_ONCE times all rows of one in distances. Raises UserError where
    the rows of a source do not vary.
    """
    count = len(rows[0])
    for name, own in zip(names, rows, strict=True):
        if not (own - own[0]).any():
            raise UserError(f"{name}: its rows never vary, so that nothing is like them")
    as_it_is = torch.arange(count)
    random = np.random.default_rng(seed)
    orders = [torch.from_numpy(random.permutation(count)) for _ in range(PERMUTED)]
    found = []
    for measure, how in MEASURES.items():
        made = [how.prepare(own, half) for own in rows]
        for a, b in itertools.combinations(range(len(rows)), 2):
            value = how.compare(made[a], made[b], as_it_is)
            chance = 0.0
            if how.by_chance:
                values = [how.compare(made[a], made[b], order) for order in orders]
                chance = float(np.quantile(values, LEVEL))
            found.append((measure, names[a], names[b], value, chance, calibrated(value, chance)))
    return pl.DataFrame(found, schema=COLUMNS, orient="row")


def calibrated(value: float, chance: float) -> float:
    """A similarity counted from its level by chance: 0 there or below, 1 where it is 1."""
    return max(0.0, (value - chance) / (1 - chance)) if chance < 1 else 0.0


# --- linear CKA ----------------------------------------------------------------------------------


def _centred(rows: Tensor, half: Tensor) -> Tensor:
    """Rows about their mean, scaled so that the norm of X'X is 1."""
    moved = rows - rows.mean(0)
    return moved / (moved.T @ moved).norm().sqrt()


def _cka(one: Tensor, other: Tensor, order: Tensor) -> float:
    return float((one.T @ other[order]).square().sum())


# --- Procrustes ----------------------------------------------------------------------------------


def _components(rows: Tensor, half: Tensor) -> Tensor:
    """Rows in their first principal components [n, COMPONENTS], of norm 1; zeros beyond the width."""
    moved = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh(moved.T @ moved)  # rising
    first = moved @ vectors[:, -COMPONENTS:]
    scores = rows.new_zeros(len(rows), COMPONENTS)
    scores[:, : first.shape[1]] = first
    return scores / scores.norm()


def _procrustes(one: Tensor, other: Tensor, order: Tensor) -> float:
    return float(torch.linalg.svdvals(one.T @ other[order]).sum())


# --- neighbours ----------------------------------------------------------------------------------


def _nearest(rows: Tensor, half: Tensor) -> Tensor:
    """Numbers [n, NEAREST] of each row's nearest others; among equals those first."""
    near = []
    for start in range(0, len(rows), AT_ONCE):
        own = rows[start : start + AT_ONCE]
        distance = torch.cdist(own, rows, compute_mode="donot_use_mm_for_euclid_dist")
        here = torch.arange(len(own))
        distance[here, start + here] = torch.inf
        near.append(distance.sort(dim=1, stable=True).indices[:, :NEAREST])
    return torch.cat(near)


def _shared(one: Tensor, other: Tensor, order: Tensor) -> float:
    """With the second source's row order[i] beside row i of the first."""
    count = len(one)
    place = torch.empty_like(order)
    place[order] = torch.arange(count)  # where a row of the second stands
    there = place[other[order]]  # [n, NEAREST], of the row beside
    row = torch.arange(count)[:, None] * count
    return float(torch.isin(row + one, row + there, assume_unique=True).double().mean())


# --- ridge ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Half:
    """Half of a source's rows: read from, and predicted."""

    rows: Tensor  # [n, d] about their mean
    read: Tensor  # [n, r], in the first principal components of all rows, about their mean
    left: Tensor  # of its singular value decomposition: [n, r], [r] and [r, r]
    sizes: Tensor
    right: Tensor


def _halves(rows: Tensor, half: Tensor) -> list[_Half]:
    """The rows of each half of the text, of total variance 1 together."""
    moved = rows - rows.mean(0)
    moved = moved / moved.square().sum(1).mean().sqrt()
    _, vectors = torch.linalg.eigh(moved.T @ moved)  # rising
    scores = moved @ vectors[:, -REGRESSORS:]
    found = []
    for inside in (half == number for number in range(HALVES)):
        own, read = (table[inside] - table[inside].mean(0) for table in (moved, scores))
        left, sizes, right = torch.linalg.svd(read, full_matrices=False)
        found.append(_Half(own, read, left, sizes, right))
    return found


def _ridge(one: Sequence[_Half], other: Sequence[_Half], order: Tensor) -> float:
    """In the order that rows have: another leaves nothing to compare."""
    found = [
        _r2(reader[fit], reader[1 - fit].read, target[fit].rows, target[1 - fit].rows)
        for reader, target in ((one, other), (other, one))
        for fit in (0, 1)
    ]
    return float(np.mean(found))


def _r2(fit: _Half, read: Tensor, target: Tensor, wanted: Tensor) -> float:
    """R2 on `wanted` [m, d] from `read` [m, r] of the regression of `target` [n, d] on a half.

    Its strength has the least generalised cross-validation error on that half (Golub et al. 1979).
    """
    count = len(target)
    cross = fit.left.T @ target  # [r, d]
    squares, explained = fit.sizes.square(), cross.square().sum(1)  # [r]
    strengths = torch.tensor(STRENGTHS, dtype=target.dtype)
    kept = squares / (squares + count * strengths[:, None])  # [strength, r]
    error = target.square().sum() - (2 * kept - kept.square()) @ explained
    best = int((error / (count - 1 - kept.sum(1)).clamp_min(1).square()).argmin())
    weights = fit.right.T @ ((fit.sizes / (squares + count * STRENGTHS[best]))[:, None] * cross)
    left_over = (wanted - read @ weights).square().sum()
    return float(1 - left_over / wanted.square().sum())


# Name -> measure. A new one is two functions and its entry here.
MEASURES = {
    "cka": Measure(_centred, _cka),
    "procrustes": Measure(_components, _procrustes),
    "neighbours": Measure(_nearest, _shared),
    "ridge": Measure(_halves, _ridge, by_chance=False),
}
