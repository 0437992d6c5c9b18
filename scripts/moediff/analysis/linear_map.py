"""The anchor without a dictionary: how much of a source's variance is a linear function of another.

What a crosscoder calls exclusive to one model says little before it is known how much of either
model can be read off the other at all. Ridge regression says so with nothing sparse in between: its
R2 from source a to source b is a lower bound of what they share. All is computed from streamed
matrices of products, and no row is read twice for it.

Rows are centred by the mean of the fit rows, the source read from is scaled to total variance 1, and
the strength alpha is per row: W = (X'X / n + alpha I)^-1 X'Y / n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moediff.activations.chunks import Selection
from moediff.activations.rows import HALF, AlignedRows
from moediff.core.errors import UserError
from moediff.core.progress import Progress

# Half decades. The mean eigenvalue of a source of total variance 1 is 1 / d: the strongest leaves
# next to nothing of any prediction, the weakest shrinks none that matters.
ALPHAS = tuple(10.0 ** (step / 2) for step in range(-20, 3))


@dataclass(frozen=True)
class Gram:
    """Count, mean [D] and products about the mean [D, D] of joint rows, in float64."""

    count: int
    mean: Tensor
    products: Tensor

    def merged(self, other: Gram) -> Gram:
        """That of both lots of rows (Chan et al. 1983)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        between = torch.outer(shift, shift) * (self.count * other.count / max(count, 1))
        mean = self.mean + shift * (other.count / max(count, 1))
        return Gram(count, mean, self.products + other.products + between)

    def about(self, mean: Tensor, rows: slice, columns: slice) -> Tensor:
        """Products of some columns with others, about another mean [D]."""
        shift = self.mean - mean
        return self.products[rows, columns] + self.count * torch.outer(shift[rows], shift[columns])


def halves(data: AlignedRows) -> tuple[Selection, Selection]:
    """The rows of about half of the text, and the others; no group of documents is in both."""
    first = data.select(lambda chunk: data.column_of(chunk, HALF) == 0)
    return first, ~first


def gram(data: AlignedRows, batch: int, keep: Selection | None = None) -> Gram:
    """Products of the joint rows of all sources, or of those of `keep`, streamed `batch` rows at a time."""
    keep = keep or data.every()
    near = torch.cat([torch.from_numpy(mean) for mean, _ in data.moments()])  # loses no digits
    total = torch.zeros_like(near)
    products = torch.zeros(len(near), len(near), dtype=torch.float64)
    progress = Progress(keep.count, "products of rows", "rows")
    for sources in data.selected(keep, batch):
        rows = torch.cat(sources, dim=1).double() - near
        total += rows.sum(0)
        products.addmm_(rows.T, rows)
        progress.advance(len(rows))
    progress.close()
    mean = total / max(keep.count, 1)
    return Gram(keep.count, near + mean, products - torch.outer(mean, total))


def ridge_r2(
    fit_a: Gram, fit_b: Gram, validation: Gram, columns_from: slice, columns_to: slice
) -> tuple[float, float]:
    """R2 of ridge regression from some columns to others on validation rows, and its alpha.

    R2 = 1 - SSE / SST, SST about the validation mean, sums over all rows and columns. `fit_a` and
    `fit_b` are two parts of the fit rows: alpha is that of ALPHAS with the least squared error of a
    fit on either part and a test on the other, both together; then all fit rows are used. Raises
    UserError when a part is too small, the sizes differ, or a target never varies.
    """
    sizes = {len(part.mean) for part in (fit_a, fit_b, validation)}
    if len(sizes) > 1:
        raise UserError("the anchor's fit and validation rows have different widths")
    if min(fit_a.count, fit_b.count) < 2:
        raise UserError(
            f"the anchor's fit rows fall into parts of {fit_a.count} and {fit_b.count} rows: "
            "they need two groups of documents or more; give more text"
        )
    total = float(validation.products[columns_to, columns_to].trace())
    if not total > 0:
        raise UserError("the anchor's validation rows never vary, so there is nothing to explain")
    alphas = torch.tensor(ALPHAS, dtype=torch.float64)
    columns = columns_from, columns_to
    tried = _errors(fit_a, fit_b, *columns, alphas) + _errors(fit_b, fit_a, *columns, alphas)
    best = int(tried.argmin())
    error = _errors(fit_a.merged(fit_b), validation, *columns, alphas[best : best + 1])
    return 1 - float(error[0]) / total, ALPHAS[best]


def _errors(
    fit: Gram, test: Gram, columns_from: slice, columns_to: slice, alphas: Tensor
) -> Tensor:
    """Sum of squared errors on `test` of the regression on `fit`, for each alpha [alpha].

    With X'X / n = V diag(l) V', the weights are V diag(s) P for P = V'X'Y / n and s = 1 / (l + alpha).
    The error is then a quadratic form in s, and an alpha costs d^2 instead of d^3.
    """
    products = fit.products[columns_from, columns_from]
    unit = products.trace() / fit.count  # total variance: X is scaled by its root
    if not unit > 0:
        raise UserError("the anchor's fit rows never vary, so nothing can be read off them")
    values, vectors = torch.linalg.eigh(products / (fit.count * unit))
    cross = vectors.T @ fit.products[columns_from, columns_to] / (fit.count * unit.sqrt())  # P
    shrunk = 1 / (values.clamp_min(0) + alphas[:, None])  # [alpha, d], s
    seen = test.about(fit.mean, columns_from, columns_from) / unit
    seen_cross = vectors.T @ test.about(fit.mean, columns_from, columns_to) / unit.sqrt()
    total = test.about(fit.mean, columns_to, columns_to).trace()
    linear = (cross * seen_cross).sum(1)  # [d]
    square = (vectors.T @ seen @ vectors) * (cross @ cross.T)  # [d, d]
    return total - 2 * shrunk @ linear + ((shrunk @ square) * shrunk).sum(1)
