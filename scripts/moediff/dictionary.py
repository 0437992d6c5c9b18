"""Dictionary = score -> select -> decode, over sources and blocks. One source is an SAE, two a crosscoder.

A row is the concatenation of its sources, each centred and scaled to total variance 1. Features are
numbered by block: tied, free, then those exclusive to each source in turn.

    D  summed widths of the sources      d_s  width of source s      S  number of sources
    F  features                          C    tied and free features, which see every source
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moediff import artifact
from moediff.config import count_of
from moediff.sparse import (
    Entries,
    entries_above,
    selected_values,
    sparse_decode,
    top_entries,
)

TIED, FREE, EXCLUSIVE = "tied", "free", "exclusive"


@dataclass(frozen=True)
class Shape:
    """Sizes of a dictionary."""

    widths: tuple[int, ...]  # d_s
    tied: int
    free: int
    exclusive: tuple[int, ...]  # for each source
    tie: str  # "norm" or "direction"

    @classmethod
    def of(cls, recipe: Mapping[str, Any], widths: Sequence[int]) -> Shape:
        """The blocks that a recipe asks for; an SAE has neither tied nor exclusive features."""
        features, several = recipe["features"], len(widths) > 1
        tied = count_of(recipe["tied"], features) if several else 0
        each = count_of(recipe["exclusive"], features) if several else 0
        exclusive = (each,) * len(widths)
        return cls(tuple(widths), tied, features - tied - sum(exclusive), exclusive, recipe["tie"])

    @property
    def common(self) -> int:
        return self.tied + self.free

    @property
    def features(self) -> int:
        return self.common + sum(self.exclusive)

    def columns(self, source: int) -> slice:
        """Columns of a row that hold one source."""
        start = sum(self.widths[:source])
        return slice(start, start + self.widths[source])

    def exclusive_features(self, source: int) -> slice:
        """Numbers of the features that only one source has."""
        start = self.common + sum(self.exclusive[:source])
        return slice(start, start + self.exclusive[source])

    def blocks(self) -> list[str]:
        """Block of every feature, in order; exclusive ones name the source's index."""
        names = [TIED] * self.tied + [FREE] * self.free
        for source, count in enumerate(self.exclusive):
            names += [f"{EXCLUSIVE}-{source}"] * count
        return names


@dataclass(frozen=True)
class Panel:
    """A stretch of features and the columns in which they have weights."""

    features: slice
    columns: slice
    encoder: Tensor  # [features, columns]
    decoder: Tensor  # [features, columns]


class Dictionary(nn.Module):
    """Sparse features over one or several sources (decision 2).

    Parameters and buffers are float32. `threshold` is the score at or above which a feature fires
    at inference; it is set once, after fitting.
    """

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        random = torch.Generator().manual_seed(seed)
        total = sum(shape.widths)
        # Each source's part of a decoder row has norm 1 / sqrt(S): the joint row has norm 1.
        common = torch.cat(
            [_directions(shape.common, width, random) for width in shape.widths], dim=1
        ) / len(shape.widths) ** 0.5  # fmt: skip
        if shape.tie == "direction" and shape.tied:
            shared = common[: shape.tied, : shape.widths[0]]
            common = torch.cat([shared.repeat(1, len(shape.widths)), common[shape.tied :]])
        alone = [
            _directions(n, w, random) for n, w in zip(shape.exclusive, shape.widths, strict=True)
        ]

        self.encoder = nn.Parameter(common.clone())  # [C, D]
        self.encoder_bias = nn.Parameter(torch.zeros(shape.features))  # [F]
        self.decoder_free = nn.Parameter(common[shape.tied :].clone())  # [free, D]
        tied = common[: shape.tied]
        if shape.tie == "direction":
            tied = tied[:, : shape.widths[0]]
        self.decoder_tied = nn.Parameter(tied.clone())  # [tied, D] or [tied, d]
        self.tied_norm = nn.Parameter(
            torch.full((shape.tied if shape.tie == "norm" else 0,), len(shape.widths) ** -0.5)
        )
        self.encoder_exclusive = nn.ParameterList(part.clone() for part in alone)  # [n_s, d_s]
        self.decoder_exclusive = nn.ParameterList(part.clone() for part in alone)  # [n_s, d_s]
        self.decoder_bias = nn.Parameter(torch.zeros(total))  # [D]

        self.register_buffer("mean", torch.zeros(total))  # [D], in the models' units
        self.register_buffer("scale", torch.ones(len(shape.widths)))  # [S], root of total variance
        self.register_buffer("threshold", torch.zeros(()))

    # --- rows ---

    def standardise(self, sources: Sequence[Tensor]) -> Tensor:
        """One row [row, D] of the sources' activations [row, d_s], centred and scaled."""
        parts = [
            (part.to(self.mean) - self.mean[self.shape.columns(s)]) / self.scale[s]
            for s, part in enumerate(sources)
        ]
        return torch.cat(parts, dim=1)

    def restore(self, rows: Tensor) -> list[Tensor]:
        """The inverse of `standardise`."""
        return [
            rows[:, self.shape.columns(s)] * self.scale[s] + self.mean[self.shape.columns(s)]
            for s in range(len(self.shape.widths))
        ]

    # --- weights ---

    def decoder_common(self) -> Tensor:
        """Decoder rows of tied and free features, [C, D], the tie applied."""
        if not self.shape.tied:
            return self.decoder_free
        if self.shape.tie == "direction":
            tied = self.decoder_tied.repeat(1, len(self.shape.widths))
        else:
            parts = self.decoder_tied.split(self.shape.widths, dim=1)
            directions = [part / part.norm(dim=1, keepdim=True) for part in parts]
            tied = torch.cat(directions, dim=1) * self.tied_norm[:, None]
        return torch.cat([tied, self.decoder_free])

    def panels(self) -> list[Panel]:
        """The parts of the dictionary that have weights; everything else does not exist."""
        shape = self.shape
        found = []
        if shape.common:
            everything = slice(0, sum(shape.widths))
            found.append(
                Panel(slice(0, shape.common), everything, self.encoder, self.decoder_common())
            )
        for source, count in enumerate(shape.exclusive):
            if count:
                found.append(
                    Panel(
                        shape.exclusive_features(source),
                        shape.columns(source),
                        self.encoder_exclusive[source],
                        self.decoder_exclusive[source],
                    )
                )
        return found

    @torch.no_grad()
    def decoders(self) -> list[Tensor]:
        """Decoder [F, d_s] of each source in standardised units; zeros where there are no weights."""
        full = torch.zeros(self.shape.features, sum(self.shape.widths)).to(self.decoder_bias)
        for panel in self.panels():
            full[panel.features, panel.columns] = panel.decoder
        return [full[:, self.shape.columns(s)] for s in range(len(self.shape.widths))]

    def norms(self) -> Tensor:
        """Decoder norm of every feature in every source: [F, S]."""
        return torch.stack([decoder.norm(dim=1) for decoder in self.decoders()], dim=1)

    # --- score, select, decode ---

    @torch.no_grad()
    def preactivations(self, rows: Tensor, panels: Sequence[Panel]) -> Tensor:
        """encoder @ row + bias: [row, F]."""
        parts = [
            torch.addmm(self.encoder_bias[p.features], rows[:, p.columns], p.encoder.T)
            for p in panels
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def scores(self, preactivations: Tensor, norms: Tensor) -> Tensor:
        """What selection ranks: ReLU pre-activation times decoder norm summed over sources, [row, F].

        norms [F] are `self.norms().sum(1)`. The product, unlike the pre-activation, does not change
        when a feature's decoder grows and its code shrinks.
        """
        return preactivations.relu() * norms

    def values(
        self, preactivations: Tensor, rows: Tensor, entries: Entries, panels: Sequence[Panel]
    ) -> Tensor:
        """Activations [n] of the selected entries, with their gradient."""
        joined = preactivations.new_zeros(len(entries[0]))
        for panel, inside in zip(panels, self._split(entries, panels), strict=True):
            found = selected_values(
                preactivations[:, panel.features],
                rows[:, panel.columns],
                panel.encoder,
                self.encoder_bias[panel.features],
                _localise(entries, inside, panel),
            )
            joined = joined.index_copy(0, inside, found)
        return joined

    def decode(
        self, values: Tensor, entries: Entries, size: int, panels: Sequence[Panel]
    ) -> Tensor:
        """Reconstruction [size, D] of standardised rows from entries."""
        total = self.decoder_bias.expand(size, -1)
        for panel, inside in zip(panels, self._split(entries, panels), strict=True):
            local = _localise(entries, inside, panel)
            decoded = sparse_decode(values.index_select(0, inside), panel.decoder, local, size)
            width = decoded.shape[1]
            if width != total.shape[1]:
                left = panel.columns.start
                decoded = nn.functional.pad(decoded, (left, total.shape[1] - left - width))
            total = total + decoded
        return total

    @torch.no_grad()
    def encode(self, rows: Tensor, k: int | None = None) -> tuple[Entries, Tensor]:
        """Entries and values of standardised rows [row, D], at inference.

        Each score at or above the threshold fires; with `k` the k * rows largest of the batch do
        (BatchTopK, 2412.06410), as in training.
        """
        before = self.preactivations(rows, self.panels())
        scores = self.scores(before, self.norms().sum(1))
        if k is None:
            entries = entries_above(scores, float(self.threshold))
        else:
            entries, _ = top_entries(scores, k * len(rows))
        return entries, before[entries]

    @torch.no_grad()
    def reconstruct(self, rows: Tensor, k: int | None = None) -> Tensor:
        """Reconstruction [row, D] of standardised rows, at inference."""
        entries, values = self.encode(rows, k)
        return self.decode(values, entries, len(rows), self.panels())

    @staticmethod
    def _split(entries: Entries, panels: Sequence[Panel]) -> list[Tensor]:
        """For each panel the positions of its entries."""
        features = entries[1]
        return [
            ((features >= p.features.start) & (features < p.features.stop)).nonzero().squeeze(1)
            for p in panels
        ]

    # --- files ---

    def save(self, path: Path | str, metadata: Mapping[str, Any]) -> None:
        """Write everything needed to use the dictionary, `metadata` beside it."""
        artifact.write_tensors(path, self.state_dict(), {**metadata, "shape": asdict(self.shape)})

    @classmethod
    def load(cls, path: Path | str) -> tuple[Dictionary, dict[str, Any]]:
        """A dictionary and its metadata. Raises DamagedError when the file is not whole."""
        tensors, metadata = artifact.read_tensors(path)
        artifact.check_format(path, metadata)
        sizes = metadata["shape"]
        shape = Shape(**sizes | {key: tuple(sizes[key]) for key in ("widths", "exclusive")})
        dictionary = cls(shape)
        dictionary.load_state_dict(tensors, strict=True)
        return dictionary.requires_grad_(False), metadata


def _directions(count: int, width: int, random: torch.Generator) -> Tensor:
    """Random unit rows [count, width]."""
    rows = torch.randn(count, width, generator=random)
    return rows / rows.norm(dim=1, keepdim=True)


def _localise(entries: Entries, inside: Tensor, panel: Panel) -> Entries:
    """Entries of one panel, features counted from its first."""
    rows, features = entries
    return rows.index_select(0, inside), features.index_select(0, inside) - panel.features.start
