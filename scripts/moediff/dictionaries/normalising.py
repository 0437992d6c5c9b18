"""How rows are shown to a dictionary, before its unit: as they are stored, over their own norm, whitened.

Every reader sees a dictionary's rows by `Dictionary.standardise`, which asks one of these; what goes back
into a model comes by `Dictionary.restore`, which asks for the inverse. All that this takes is fitted once
on the fit rows and lies in the dictionary's file.

    d_s  width of source s      D  summed widths
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from moediff.activations.moments import Moments
from moediff.activations.rows import AlignedRows
from moediff.config.recipes import NONE
from moediff.core.errors import UserError
from moediff.core.progress import Progress

# An eigenvalue of the covariance below this share of their mean is taken for it: so much less than a mean
# direction holds no direction may have. Rows stored in float16 have noise of 1e-7 of the mean.
FLOOR = 1e-4
BATCH = 4096  # rows read at once

# Mean [d_s] and total variance of each source, as it is shown.
Centres = Sequence[tuple[np.ndarray, float]]


class Normaliser(nn.Module):
    """Rows as they are stored. The others say what they do instead."""

    name = NONE

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = tuple(widths)

    @classmethod
    def fitted(cls, data: AlignedRows) -> tuple[Normaliser, Centres]:
        """One for the fit rows, and mean and total variance of these as it shows them."""
        return cls(data.widths), data.moments()

    def centred(self, rows: Tensor, source: int, mean: Tensor) -> Tensor:
        """Rows [row, d_s] of a source, as the model gives them, as they are shown, about `mean` [d_s]."""
        return rows - mean

    def restored(self, rows: Tensor, source: int, mean: Tensor, of: Tensor | None) -> Tensor:
        """The inverse of `centred`. `of` [row, d_s] are the rows that these were made of."""
        return rows + mean

    def linear(self, part: Tensor, source: int, of: Tensor) -> Tensor:
        """What a summand [row, d_s] of rows `of` adds to what is shown of them: parts of these sum to it."""
        return part

    def origin(self, source: int, mean: Tensor) -> Tensor:
        """What `centred` takes off the sum of all parts: [d_s]."""
        return mean

    def written(self, directions: Tensor, source: int) -> Tensor:
        """What directions [n, d_s] of what is shown are in the model's units, the size of the row apart."""
        return directions

    def sizes(self, rows: Tensor) -> Tensor:
        """Of each row [row, d_s] what `centred` divides it by and `restored` multiplies it by: [row]."""
        return torch.ones_like(rows[:, 0])

    def mean_row(self, source: int, mean: Tensor) -> Tensor:
        """Mean [d_s] of the fit rows as the model gives them."""
        return mean


class Rms(Normaliser):
    """Each row over its own root mean square, then about the mean of such rows.

    That is what an RMSNorm sees of a stream, its gain and its epsilon apart; the mean of the stored rows
    stays in, since the norm divides by the whole row. The root mean square itself is not part of what a
    dictionary sees: of a reconstruction it is that of the row itself.
    """

    name = "rms"
    rows_mean: Tensor  # [D], of the rows as the models give them

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths)
        self.register_buffer("rows_mean", torch.zeros(sum(widths)))

    @classmethod
    def fitted(cls, data: AlignedRows) -> tuple[Normaliser, Centres]:
        found = cls(data.widths)
        found.rows_mean.copy_(torch.from_numpy(np.concatenate([m for m, _ in data.moments()])))
        sums = [Moments(width) for width in data.widths]
        progress = Progress(data.count, "rows over their root mean squares", "rows")
        for sources in data.in_order(BATCH):
            for own, rows in zip(sums, sources, strict=True):
                own.add(rows.double() / found.sizes(rows.double())[:, None])
            progress.advance(len(sources[0]))
        progress.close()
        return found, [(own.mean, float(own.spread.sum() / own.count)) for own in sums]

    def centred(self, rows: Tensor, source: int, mean: Tensor) -> Tensor:
        return rows / self.sizes(rows)[:, None] - mean

    def restored(self, rows: Tensor, source: int, mean: Tensor, of: Tensor | None) -> Tensor:
        if of is None:
            raise UserError(
                "a dictionary of recipe normalise: rms knows no row's size; give `restore` the "
                "activations that its rows were made of too"
            )
        return (rows + mean) * self.sizes(of.to(rows))[:, None]

    def linear(self, part: Tensor, source: int, of: Tensor) -> Tensor:
        return part / self.sizes(of)[:, None]

    def sizes(self, rows: Tensor) -> Tensor:
        """Root mean square; of a row of zeros the least number that can be divided by."""
        return rows.square().mean(1).sqrt().clamp_min(torch.finfo(rows.dtype).tiny)

    def mean_row(self, source: int, mean: Tensor) -> Tensor:
        return self.rows_mean.split(self.widths)[source]


class Whitened(Normaliser):
    """Each source about its mean, times the inverse square root of the covariance of its fit rows (ZCA).

    Fit rows then have variance 1 in every direction, but for those of less than FLOOR of the mean
    variance, which have less than 1. Of all whitenings the symmetric one moves rows least, and it
    follows a rotation or another unit of the source: whitened, that is a rotation only.
    """

    name = "whiten"

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__(widths)
        for source, width in enumerate(self.widths):
            self.register_buffer(f"matrix_{source}", torch.eye(width))
        self._inverses: dict[int, tuple[Tensor, Tensor]] = {}  # what each was computed of, and it

    @classmethod
    def fitted(cls, data: AlignedRows) -> tuple[Normaliser, Centres]:
        found, moments, shown = cls(data.widths), data.moments(), []
        for source, covariance in enumerate(_covariances(data, moments)):
            values, vectors = torch.linalg.eigh(covariance)
            floored = values.clamp_min(FLOOR * float(covariance.trace()) / len(covariance))
            found.matrix(source).copy_((vectors / floored.sqrt()) @ vectors.T)
            shown.append((moments[source][0], float((values.clamp_min(0) / floored).sum())))
        return found, shown

    def matrix(self, source: int) -> Tensor:
        """What the rows of a source are multiplied by: [d_s, d_s], symmetric."""
        return self.get_buffer(f"matrix_{source}")

    def inverse(self, source: int) -> Tensor:
        """Of that matrix as it is stored, in float64; computed once."""
        matrix = self.matrix(source)
        held = self._inverses.get(source)
        if held is None or held[0] is not matrix:
            held = self._inverses[source] = matrix, torch.linalg.inv(matrix.double())
        return held[1]

    def centred(self, rows: Tensor, source: int, mean: Tensor) -> Tensor:
        return (rows - mean) @ self.matrix(source)

    def restored(self, rows: Tensor, source: int, mean: Tensor, of: Tensor | None) -> Tensor:
        return self.written(rows, source) + mean

    def linear(self, part: Tensor, source: int, of: Tensor) -> Tensor:
        return part @ self.matrix(source)

    def origin(self, source: int, mean: Tensor) -> Tensor:
        return mean @ self.matrix(source)

    def written(self, directions: Tensor, source: int) -> Tensor:
        return (directions.double() @ self.inverse(source)).to(directions)


NORMALISERS: dict[str, type[Normaliser]] = {one.name: one for one in (Normaliser, Rms, Whitened)}


def _covariances(data: AlignedRows, moments: Centres) -> list[Tensor]:
    """Covariance [d_s, d_s] of each source about its mean, in float64, in one pass."""
    means = [torch.from_numpy(mean) for mean, _ in moments]
    found = [torch.zeros(len(mean), len(mean), dtype=torch.float64) for mean in means]
    progress = Progress(data.count, "covariance", "rows")
    for sources in data.in_order(BATCH):
        for total, mean, rows in zip(found, means, sources, strict=True):
            moved = rows.double() - mean
            total.addmm_(moved.T, moved)
        progress.advance(len(sources[0]))
    progress.close()
    return [total / data.count for total in found]
