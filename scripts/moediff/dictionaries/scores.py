"""Scores of features, whole or screened: the dense half of exact selection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from moediff.dictionaries import sums_torch
from moediff.dictionaries.entries import Entries, crowded, localise

# A floor under a row's k largest scores is the k-th largest of its maxima over this many groups of features
# for each of the k. More groups give a tighter floor, so fewer entries to sort; fewer are found faster.
GROUPS_PER_WANTED = 6
# The encoder times its ranking weights is made for this many features at a time: whole it would take as
# much memory as the encoder itself.
FEATURES_AT_ONCE = 4096
# Of each row NumPy finds the k-th largest two to four times as fast as torch on one core. torch shares the
# rows among its threads, so that with more of them it is the faster one.
NUMPY_THREADS = 2


class Scratch:
    """One table [row, feature] of scores, kept for the next batch: scores before lose their values.

    To ask the system for it anew costs a twentieth of a step, since every page is cleared at its
    first touch. One of more than KEPT bytes is given back all the same: it would stay beside the
    gradients, where memory is at its peak.
    """

    KEPT = 2**27

    def __init__(self) -> None:
        self.kept: Tensor | None = None

    def table(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A table whose values are undefined."""
        kept = self.kept
        if kept is None or (kept.shape, kept.dtype, kept.device) != (shape, dtype, device):
            kept = torch.empty(shape, dtype=dtype, device=device)
            self.kept = kept if kept.nbytes <= self.KEPT else None
        return kept


class Scores(Protocol):
    """Scores [row, feature] of a batch, of which only some are ever looked at."""

    shape: tuple[int, int]
    violations: int  # entries found above a bound that was claimed for them

    def at_least(self, floor: float | Tensor) -> tuple[Entries, Tensor]:
        """Entries that are positive and at least `floor`, and their scores.

        `floor` is a number, or a tensor that broadcasts: [row, 1] or [feature].
        """

    def row_floor(self, k: int) -> Tensor:
        """A floor [row, 1] for each row that its k largest scores pass."""


def backend(tensor: Tensor) -> ModuleType:
    """Module of sums over entries for the device on which `tensor` lies."""
    return (tensor.is_cuda and _kernels()) or sums_torch


@cache
def _kernels() -> ModuleType | None:
    """Kernels for CUDA; none where Triton is not installed."""
    try:
        from moediff.dictionaries import sums_triton
    except ImportError:
        return None
    return sums_triton


@dataclass(frozen=True)
class Linear:
    """One stretch of features: scores are (inputs @ encoder.T + bias) * weight."""

    encoder: Tensor  # [feature, width]
    bias: Tensor  # [feature]
    weight: Tensor | None  # [feature], positive or zero; None is 1
    columns: slice  # of the rows
    features: slice

    def stretches(self) -> Iterator[Linear]:
        """The same in stretches of at most FEATURES_AT_ONCE features."""
        if self.weight is None:
            yield self
            return
        for start in range(0, len(self.encoder), FEATURES_AT_ONCE):
            own = slice(start, min(start + FEATURES_AT_ONCE, len(self.encoder)))
            features = slice(self.features.start + own.start, self.features.start + own.stop)
            yield Linear(
                self.encoder[own], self.bias[own], self.weight[own], self.columns, features
            )

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Encoder and bias with the weight folded in."""
        if self.weight is None:
            return self.encoder, self.bias
        return self.encoder * self.weight[:, None], self.bias * self.weight


class DenseScores:
    """All scores, in the dtype of the rows; gradients are those of `selected_values`."""

    violations = 0  # nothing is claimed

    @torch.no_grad()
    def __init__(
        self, rows: Tensor, parts: Sequence[Linear], scratch: Scratch | None = None
    ) -> None:
        self.shape = (len(rows), parts[-1].features.stop)
        self.all = (scratch or Scratch()).table(self.shape, rows.dtype, rows.device)
        for part in parts:
            for stretch in part.stretches():
                encoder, bias = stretch.scaled()
                into = self.all[:, stretch.features]
                torch.addmm(bias, rows[:, part.columns], encoder.T, out=into)

    def at_least(self, floor: float | Tensor) -> tuple[Entries, Tensor]:
        if isinstance(floor, Tensor):
            entries = backend(self.all).above(self.all, floor)
            scores = self.all[entries]
            return where(entries, scores, scores > 0)
        # The smallest positive number: at least the floor and positive are one comparison.
        entries = backend(self.all).above(self.all, max(floor, torch.finfo(self.all.dtype).tiny))
        return entries, self.all[entries]

    def row_floor(self, k: int) -> Tensor:
        return _row_floor(self.all, k)


class ScreenedScores:
    """Scores bounded from above in bfloat16; only entries whose bound passes are computed.

    With u = 2^-8, rounding to bfloat16 errs by u / 2 at most. A product of rounded factors then
    differs from the true one by at most (u + u^2 / 4) |x| |w| (Cauchy-Schwarz) and u / 2 of the
    bias; the sum in float32 adds at most 2^-24 a column. That margin is two more columns of the
    product, and the rounding of the bound itself is allowed for when it is compared. So no entry is
    missed, and `violations`, the number of rescored entries above their own bound, stays 0.
    """

    MARGIN = 1.05 * 2**-8  # beside what the width adds
    ROUNDING = 2**-7  # relative: of the bound and of the floor, both in bfloat16

    @torch.no_grad()
    def __init__(
        self, rows: Tensor, parts: Sequence[Linear], scratch: Scratch | None = None
    ) -> None:
        self.rows, self.parts = rows, parts
        self.shape = (len(rows), parts[-1].features.stop)
        self.violations = 0
        self.widest = rows.new_zeros(len(rows))  # [row], the largest margin of any feature
        self.bounds = (scratch or Scratch()).table(self.shape, torch.bfloat16, rows.device)
        for part in parts:
            x, bias, size = rows[:, part.columns], part.bias, part.encoder.norm(dim=1)
            if part.weight is not None:
                bias, size = bias * part.weight, size * part.weight
            margin = (self.MARGIN + x.shape[1] * 2**-24) * x.norm(dim=1)
            slack = self.MARGIN * bias.abs()
            one = torch.ones_like(margin)
            left = _narrow(x, None, (_up(margin), one, one))
            right = _narrow(part.encoder, part.weight, (_up(size), bias, _up(slack)))
            torch.mm(left, right.T, out=self.bounds[:, part.features])
            self.widest = torch.maximum(self.widest, margin * size.max() + slack.max())

    def at_least(self, floor: float | Tensor) -> tuple[Entries, Tensor]:
        floor = floor.clamp_min(0.0) if isinstance(floor, Tensor) else max(floor, 0.0)
        limit = floor * (1 - self.ROUNDING)
        limit = limit.bfloat16() if isinstance(limit, Tensor) else limit
        entries = backend(self.bounds).above(self.bounds, limit)
        scores = self._scores_at(entries)
        bounds = self.bounds[entries].float()
        self.violations += int((scores > bounds + self.ROUNDING * bounds.abs()).sum())
        floors = floor.expand(self.shape)[entries] if isinstance(floor, Tensor) else floor
        return where(entries, scores, (scores >= floors) & (scores > 0))

    def _scores_at(self, entries: Entries) -> Tensor:
        return scores_at(self.rows, self.parts, entries)

    def row_floor(self, k: int) -> Tensor:
        """The k-th largest bound of a row, less twice the widest margin: k true scores pass it."""
        floor = _row_floor(self.bounds, k).float()
        return floor - 2 * self.ROUNDING * floor.abs() - 2 * _up(self.widest)[:, None]


class InferenceScores(ScreenedScores):
    """Screened scores for a code, whatever the number that fires: where many pass their bound, all are
    computed. So they are too if a bound is ever missed, which training tells in its log instead."""

    def at_least(self, floor: float | Tensor) -> tuple[Entries, Tensor]:
        found = super().at_least(floor)
        return DenseScores(self.rows, self.parts).at_least(floor) if self.violations else found

    def _scores_at(self, entries: Entries) -> Tensor:
        if crowded(entries, *self.shape):
            return DenseScores(self.rows, self.parts).all[entries]
        return super()._scores_at(entries)


def scores_at(rows: Tensor, parts: Sequence[Linear], entries: Entries) -> Tensor:
    """Scores [n] of entries alone, by row, in the dtype of the rows: a product of its own each."""
    scores = rows.new_empty(len(entries[0]))
    for part in parts:
        inside, local = localise(entries, part.features)
        dots = backend(rows).row_dots(rows[:, part.columns], part.encoder, local)
        dots = dots + part.bias[local[1]]
        scores[inside] = dots if part.weight is None else dots * part.weight[local[1]]
    return scores


def _narrow(table: Tensor, weight: Tensor | None, columns: Sequence[Tensor]) -> Tensor:
    """bfloat16 [row, width + more] of a table, its rows times `weight`, with more columns."""
    size, width = table.shape
    narrow = torch.empty(size, width + len(columns), dtype=torch.bfloat16, device=table.device)
    if weight is None:
        narrow[:, :width] = table
    else:  # rounded once, from the float32 product, in one pass
        torch.mul(table, weight[:, None], out=narrow[:, :width])
    for place, column in enumerate(columns, start=width):
        narrow[:, place] = column
    return narrow


def _up(values: Tensor) -> Tensor:
    """Numbers that bfloat16 rounds to no less than `values` (which are not negative)."""
    return values * (1 + 2**-7)


def _row_floor(scores: Tensor, k: int) -> Tensor:
    """The k-th largest of a row's maxima over strided groups: at least k scores are no smaller."""
    size, width = scores.shape
    groups = GROUPS_PER_WANTED * k
    fold = width // groups
    if fold > 1:
        scores = scores[:, : groups * fold].view(size, fold, groups).amax(1)
    return kth(scores, min(k, width))


def kth(values: Tensor, k: int) -> Tensor:
    """The k-th largest of each row, [row, 1]."""
    few = values.device.type == "cpu" and torch.get_num_threads() <= NUMPY_THREADS
    if few and values.dtype != torch.bfloat16:  # which NumPy does not have
        place = values.shape[1] - k
        ranked = np.partition(values.detach().numpy(), place, axis=1)
        return torch.from_numpy(ranked[:, place, None].copy())
    return values.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)


def where(entries: Entries, scores: Tensor, mask: Tensor) -> tuple[Entries, Tensor]:
    kept = mask.nonzero().squeeze(1)
    return (entries[0][kept], entries[1][kept]), scores[kept]
