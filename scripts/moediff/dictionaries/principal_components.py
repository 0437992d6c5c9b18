"""Principal components: the baseline that a dictionary must beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moediff.activations.rows import AlignedRows
from moediff.config.recipes import NONE
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.core.progress import Progress
from moediff.dictionaries.normalising import NORMALISERS


@dataclass(frozen=True)
class Baseline:
    """Principal components of the fit rows, joint over the sources, each normalised and
    scaled to total variance 1 as for a dictionary."""

    vectors: Tensor  # [D, components], float64, by falling variance
    variances: Tensor  # [components]
    scale: Tensor  # [D], root of the total variance of each column's source

    @classmethod
    def load(cls, path: Path | str, sources: Sequence[str]) -> Baseline:
        """Read what the components rule wrote of these sources. Raises UserError where it is of others."""
        tensors, metadata = artifact.read_tensors(path)
        artifact.check_format(path, metadata)
        if metadata["sources"] != list(sources):
            raise UserError(
                f"{path}: components of {', '.join(metadata['sources'])}, not of {', '.join(sources)}; run "
                f"rm '{path}' and then the same snakemake command again"
            )
        return cls(tensors["vectors"], tensors["variances"], tensors["scale"])

    def to(self, device: torch.device) -> Baseline:
        """The same on `device`, as far as `reconstruct` needs it."""
        return Baseline(self.vectors.to(device), self.variances, self.scale.to(device))

    def reconstruct(self, rows: Tensor, scale: Tensor, k: int) -> Tensor:
        """Centred rows [row, D], in units of `scale` [D], from their first k components."""
        basis, unit = self.vectors[:, :k], scale / self.scale
        return ((rows * unit) @ basis) @ basis.T / unit


def principal_components(data: AlignedRows, normalise: str = NONE, batch: int = 4096) -> Baseline:
    """Components of the fit rows, from a covariance streamed in float64.

    Each source is normalised (a name of NORMALISERS), centred and scaled to total variance 1, as for a
    dictionary.
    """
    normaliser, centres = NORMALISERS[normalise].fitted(data)
    normaliser.double()
    means = [torch.from_numpy(part) for part, _ in centres]
    scale = torch.cat(
        [torch.full((len(part),), variance**0.5).double() for part, variance in centres]
    )
    covariance = torch.zeros(len(scale), len(scale), dtype=torch.float64)
    progress = Progress(data.count, "principal components", "rows")
    for sources in data.in_order(batch):
        shown = [normaliser.centred(part.double(), s, means[s]) for s, part in enumerate(sources)]
        rows = torch.cat(shown, dim=1) / scale
        covariance += rows.T @ rows
        progress.advance(len(rows))
    progress.close()
    variances, vectors = torch.linalg.eigh(covariance / data.count)
    return Baseline(vectors.flip(1), variances.flip(0), scale)
