"""Latent scaling: does a source that seems to lack a feature hold it all the same? (2504.02922)

A sparse dictionary can make a feature look exclusive in two ways. *Shrinkage*: the other source has
it, yet its decoder row there went to zero, so it is left in that source's error. *Decoupling*: the
other source's part is rebuilt by other features that fire with it. Both are seen by regressing
targets on the feature's values f alone. Of each source there are two targets:

    error           the rows less the reconstruction without this feature
    reconstruction  the whole reconstruction (the paper's code takes it for both sources too)

The feature's *owner* is the source where its decoder norm is larger (A where they are equal), and
nu is what goes with f in the other source's target over what goes with it in the owner's. A high
nu of the error means shrinkage, a high nu of the reconstruction decoupling.

**The paper's nu** compares beta = (d . sum f Y) / (|d|^2 sum f^2), the amount of the owner's
direction d that goes with f in a target Y. The two models must share a basis, as a model and its
fine-tune do: in models trained apart, d is a random direction of the other, and nu is near 0
whether that one holds the feature or not.

**Ours** fits the direction too, in each source its own: v = sum (f - mean f) Y / sum (f - mean f)^2
is the least squares slope of Y on f, with a constant, since variance is explained about the mean
here, and nu = |v of the other| / |v of the owner|. No rotation of a source changes it. A fitted
direction finds length in noise as well: |v|^2 is too large by about var(Y) / sum f^2, which is much
for a feature that fires seldom. So |v|^2 is taken as v' . v'', the slopes over two halves of the text,
no group of documents in both: the noise of one is independent of that of the other, and the product has
no such bias. Below 0 it counts as 0. The sums of squares of f are the same for both sources and cancel.

Three limits. The direction being free, all that goes with f counts: the nu of the reconstruction of
a feature that only one source has is above 0 where other features fire in the same texts, so a high
one alone does not prove decoupling. A feature that is read in both sources goes with what it reads in
each. And the paper's bounds (0.2 for the error, 0.5 for the reconstruction) were set for its own nu.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from moediff.activations.groups import HALVES
from moediff.activations.rows import HALF, AlignedRows
from moediff.analysis.evaluation import coded
from moediff.analysis.measured import LEAST_FIRINGS
from moediff.core.errors import UserError
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.entries import Entries
from moediff.dictionaries.scores import backend


class _Codes:
    """Sums over rows of a dictionary's values, by half of the rows."""

    def __init__(self, features: int, device: torch.device) -> None:
        self.rows = torch.zeros(HALVES, dtype=torch.float64, device=device)
        self.fired = torch.zeros(features, dtype=torch.int64, device=device)
        self.sum = torch.zeros(HALVES * features, dtype=torch.float64, device=device)
        self.square = torch.zeros_like(self.sum)

    def add(self, half: Tensor, features: Tensor, cells: Tensor, values: Tensor) -> None:
        """Count rows of `half` [row], and entries: features, cells and values [n]."""
        self.rows += torch.bincount(half, minlength=HALVES)
        self.fired += torch.bincount(features, minlength=len(self.fired))
        self.sum.index_add_(0, cells, values)
        self.square.index_add_(0, cells, values.square())

    @property
    def mean(self) -> Tensor:
        """Over all rows of a half, [half, F]."""
        return self.sum.view(HALVES, -1) / self.rows.clamp_min(1)[:, None]

    @property
    def spread(self) -> Tensor:
        """Sum of squares about the mean of a half, [half, F]."""
        sums = self.sum.view(HALVES, -1)
        return self.square.view(HALVES, -1) - sums * self.mean


class _Target:
    """Sums over rows of a target and of each feature's values times it, by half of the rows."""

    def __init__(self, features: int, width: int, device: torch.device) -> None:
        self.sum = torch.zeros(HALVES, width, dtype=torch.float64, device=device)
        self.product = torch.zeros(HALVES * features, width, dtype=torch.float64, device=device)

    def add(
        self, target: Tensor, half: Tensor, rows: Tensor, cells: Tensor, values: Tensor
    ) -> None:
        """Count target rows [row, D] of `half` [row], and entries [n] sorted by cell."""
        for number in range(HALVES):
            self.sum[number] += target[half == number].sum(0)
        touched, group = cells.unique_consecutive(return_inverse=True)
        more = backend(target).weighted_rows(target, rows, group, values, len(touched))
        self.product[touched] += more  # each cell once

    def about_mean(self, codes: _Codes) -> Tensor:
        """Sum of (f - mean f) times the target, [half, F, D]."""
        product = self.product.view(HALVES, -1, self.sum.shape[1])
        return product - codes.mean[:, :, None] * self.sum[:, None]


@torch.no_grad()
def latent_scaling(
    dictionary: Dictionary,
    data: AlignedRows,
    batch: int,
    device: torch.device,
    least: int = LEAST_FIRINGS,
) -> dict[str, np.ndarray]:
    """Both nu of every feature of a dictionary over two sources, each an array [F].

    `nu_error` and `nu_reconstruction` are ours, `paper_error` and `paper_reconstruction` the
    paper's, which needs sources of one width; `fired` is the number of rows on which a feature
    fires. In standardised units, by the thresholds, over all rows. NaN where a feature fired on
    fewer than `least` rows, where nothing of the owner's target goes with it, and the paper's where
    widths differ. Raises UserError unless there are two sources.

    Holds 4 F D numbers in float64, and about as many more at the end.
    """
    shape = dictionary.shape
    if len(shape.widths) != 2:
        raise UserError(
            f"latent scaling compares two sources, and this dictionary has {len(shape.widths)}"
        )
    dictionary = in_float64(dictionary, device)
    codes, error, whole = _sums(dictionary, data, batch, device)
    parts = dictionary.decoders()
    decoder = torch.cat(parts, dim=1)  # [F, D]
    norms = dictionary.norms()  # [F, 2], exactly equal where they are tied
    owner = (norms[:, 1] > norms[:, 0]).long()
    columns = [shape.columns(s) for s in range(2)]

    def ratio(amounts: Tensor) -> np.ndarray:
        """That of the other source over that of the owner, of amounts [F, 2]."""
        own, other = (amounts.gather(1, s[:, None]).squeeze(1) for s in (owner, 1 - owner))
        known = (codes.fired >= least) & (own > 0)
        return torch.where(known, other / own, torch.nan).cpu().numpy()

    nu = {"fired": codes.fired.cpu().numpy()}
    # The error without a feature is the residual and its own part: f times its decoder row.
    for name, target, own_part in (("error", error, True), ("reconstruction", whole, False)):
        slopes = target.about_mean(codes)  # [half, F, D], times the sum of squares of f
        if own_part:
            slopes += codes.spread[:, :, None] * decoder
        both = slopes[0] * slopes[1]
        del slopes
        length = torch.stack([both[:, part].sum(1) for part in columns], dim=1)  # [F, 2], squared
        nu[f"nu_{name}"] = np.sqrt(ratio(length.clamp_min(0)))
        nu[f"paper_{name}"] = np.full(shape.features, np.nan)
        if shape.widths[0] == shape.widths[1]:
            product = target.product.view(HALVES, *decoder.shape).sum(0)  # [F, D]
            if own_part:
                product += codes.square.view(HALVES, -1).sum(0)[:, None] * decoder
            direction = torch.where(owner[:, None] == 0, parts[0], parts[1])  # [F, d]
            along = [(product[:, part] * direction).sum(1) for part in columns]
            nu[f"paper_{name}"] = ratio(torch.stack(along, dim=1))
    return nu


def _sums(
    dictionary: Dictionary, data: AlignedRows, batch: int, device: torch.device
) -> tuple[_Codes, _Target, _Target]:
    """Sums of the values, of the residual and of the reconstruction, in one pass."""
    features, width = dictionary.shape.features, sum(dictionary.shape.widths)
    codes = _Codes(features, device)
    error, whole = (_Target(features, width, device) for _ in range(2))
    halves = data.column_in_order(HALF, batch)
    batches = coded(dictionary, data, batch, device, "latent scaling")
    for (rows, entries, values), half in zip(batches, halves, strict=True):
        rebuilt = dictionary.decode(values, entries, len(rows))
        half = half.to(device)
        places, features_of, cells, values = _by_cell(half, entries, values, features)
        codes.add(half, features_of, cells, values)
        error.add(rows - rebuilt, half, places, cells, values)
        whole.add(rebuilt, half, places, cells, values)
    return codes, error, whole


def _by_cell(
    half: Tensor, entries: Entries, values: Tensor, features: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, features, cells and values of entries, sorted by cell: its row's half, then its feature."""
    rows, of = entries
    cells = half[rows] * features + of
    order = cells.argsort(stable=True)
    return rows[order], of[order], cells[order], values[order]
