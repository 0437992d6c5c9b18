"""Dictionary = score -> select -> decode, over sources and blocks. One source is an SAE, two a crosscoder.

A row is the concatenation of its sources, each normalised as the recipe says, centred and scaled to total
variance 1. Features are numbered by block: tied, free, then those exclusive to each source in turn.

    D  summed widths of the sources      d_s  width of source s      S  number of sources
    F  features                          C    tied and free features, which see every source
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moediff.config.recipes import NONE
from moediff.core import artifact
from moediff.core.device import has_bfloat16
from moediff.dictionaries.blocks import (
    EXCLUSIVE,
    FREE,
    RANKS,
    TIED,
    TIES,
    Block,
    Shape,
    directions,
    widen,
)
from moediff.dictionaries.entries import Entries, localise
from moediff.dictionaries.normalising import NORMALISERS, Normaliser
from moediff.dictionaries.parts import Part
from moediff.dictionaries.products import selected_values, sparse_decode
from moediff.dictionaries.scores import (
    DenseScores,
    InferenceScores,
    Linear,
    Scores,
    Scratch,
    ScreenedScores,
    scores_at,
)
from moediff.dictionaries.selection import KEEPS_K


class Dictionary(nn.Module):
    """Sparse features over one or several sources (decision 2).

    Parameters and buffers are float32. `threshold` is the score at or above which each feature
    fires at inference; it is set once, after fitting. A block that has no features does not exist.
    Encoder and decoder rows begin equal, with norm `start` over all sources.
    """

    blocks: Mapping[str, Block]  # by name, in the order of features
    mean: Tensor  # [D], in the models' units, or of rows over their root mean squares
    scale: Tensor  # [S], root of total variance
    threshold: Tensor  # [F], of scores

    def __init__(
        self,
        shape: Shape,
        seed: int = 0,
        start: float = 1.0,
        normaliser: Normaliser | None = None,
        part: Part | None = None,
    ) -> None:
        """With a copy of `normaliser`; None: rows are taken as they are stored. Of the features that `shape`
        says a `part` holds some, with the weights that they begin with in a whole dictionary."""
        super().__init__()
        self.part, whole = part, shape
        self.shape = shape = shape if part is None else part.shape
        random = torch.Generator().manual_seed(seed)
        total = sum(shape.widths)

        def drawn(features: slice, width: int) -> Tensor:
            kept = None if part is None else part.inside(features)
            return directions(features.stop - features.start, width, random, kept)

        # Each source's part of a row has an equal norm: the joint row has norm `start`.
        common = torch.cat(
            [drawn(slice(0, whole.common), width) for width in shape.widths], dim=1
        ) * (start / len(shape.widths) ** 0.5)  # fmt: skip
        if shape.tie == "direction" and shape.tied:
            shared = common[: shape.tied, : shape.widths[0]]
            common = torch.cat([shared.repeat(1, len(shape.widths)), common[shape.tied :]])
        everything = slice(0, total)
        blocks: list[Block] = []
        if shape.tied:
            tied = slice(0, shape.tied)
            blocks.append(TIES[shape.tie](shape.widths, TIED, tied, everything, common[tied]))
        if shape.free:
            free = slice(shape.tied, shape.common)
            blocks.append(Block(FREE, free, everything, common[free]))
        for source, count in enumerate(shape.exclusive):
            rows = start * drawn(whole.exclusive_features(source), shape.widths[source])
            if count:
                name, features = f"{EXCLUSIVE}-{source}", shape.exclusive_features(source)
                blocks.append(Block(name, features, shape.columns(source), rows))
        by_name = nn.ModuleDict({block.name: block for block in blocks})
        self.blocks = by_name  # type: ignore[assignment]  # torch does not say what its dict holds
        self.decoder_bias = nn.Parameter(torch.zeros(total))  # [D]

        self.normaliser = copy.deepcopy(normaliser or Normaliser(shape.widths))
        self.register_buffer("mean", torch.zeros(total))
        self.register_buffer("scale", torch.ones(len(shape.widths)))
        self.register_buffer("threshold", torch.zeros(shape.features))

    # --- rows ---

    def standardise(self, sources: Sequence[Tensor]) -> Tensor:
        """One row [row, D] of the sources' activations [row, d_s], normalised, centred and scaled."""
        parts = [
            self.normaliser.centred(part.to(self.mean), s, self.mean[self.shape.columns(s)])
            / self.scale[s]
            for s, part in enumerate(sources)
        ]
        return torch.cat(parts, dim=1)

    def restore(self, rows: Tensor, of: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The inverse of `standardise`; `of` are the activations that the rows were made of.

        They are needed where each row was divided by its own root mean square, which a row [row, D] does
        not hold. Raises UserError where they are and there are none.
        """
        found = []
        for s in range(len(self.shape.widths)):
            columns, own = self.shape.columns(s), None if of is None else of[s]
            part = rows[:, columns] * self.scale[s]
            found.append(self.normaliser.restored(part, s, self.mean[columns], own))
        return found

    def mean_rows(self) -> list[Tensor]:
        """Mean [d_s] of the fit rows of each source, as the models give them."""
        return [
            self.normaliser.mean_row(s, self.mean[self.shape.columns(s)])
            for s in range(len(self.shape.widths))
        ]

    # --- weights ---

    @torch.no_grad()
    def decoders(self) -> list[Tensor]:
        """Decoder [F, d_s] of each source in standardised units; zeros where there are no weights."""
        full = torch.zeros(self.shape.features, sum(self.shape.widths)).to(self.decoder_bias)
        for block in self.blocks.values():
            full[block.features, block.columns] = block.decoder()
        return [full[:, self.shape.columns(s)] for s in range(len(self.shape.widths))]

    def norms(self) -> Tensor:
        """Decoder norm of every feature in every source: [F, S], with its gradient."""
        sources = len(self.shape.widths)
        by_block = []
        for block in self.blocks.values():
            parts = []
            for source in range(sources):
                columns = self.shape.columns(source)
                if block.columns.start <= columns.start and columns.stop <= block.columns.stop:
                    start = columns.start - block.columns.start
                    parts.append((source, slice(start, start + self.shape.widths[source])))
            by_block.append(block.norms(parts, sources))
        return torch.cat(by_block)

    # --- score, select, decode ---

    def score(
        self, rows: Tensor, screened: bool = False, scratch: Scratch | None = None
    ) -> tuple[Scores, Tensor]:
        """What selection ranks, and its weights [F] from the decoder's norms.

        A score is a pre-activation times its weight. The product, unlike the pre-activation, does
        not change when a feature's decoder grows and its code shrinks.
        """
        parts, weight = self._linear()
        return (ScreenedScores if screened else DenseScores)(rows, parts, scratch), weight

    def score_at_inference(self, rows: Tensor) -> tuple[Scores, Tensor]:
        """As `score`, screened where bfloat16 is fast: equal to it but for the last bits."""
        if not has_bfloat16(rows.device):
            return self.score(rows)
        parts, weight = self._linear()
        return InferenceScores(rows, parts), weight

    @torch.no_grad()
    def _linear(self) -> tuple[list[Linear], Tensor]:
        """What scores are computed by, block by block, and the weights [F] of `score`."""
        weight = RANKS[self.shape.rank](self.norms())
        parts = [
            Linear(
                block.encoder.detach(), block.encoder_bias.detach(), weight[block.features],
                block.columns, block.features,
            )
            for block in self.blocks.values()
        ]  # fmt: skip
        return parts, weight

    def values(self, known: Tensor, rows: Tensor, entries: Entries) -> Tensor:
        """`known` [n], the pre-activations at the entries, with their gradient."""
        by_block = []
        for block, inside, local in self._split(entries):
            inputs = rows[:, block.columns]
            mine = known if inside is None else known[inside]
            part = selected_values(mine, inputs, block.encoder, block.encoder_bias, local)
            if inside is None:
                return part
            by_block.append((inside, part))
        joined = torch.zeros_like(known)
        for inside, part in by_block:
            joined = joined.index_copy(0, inside, part)
        return joined

    def decode(self, values: Tensor, entries: Entries, size: int) -> Tensor:
        """Reconstruction [size, D] of standardised rows from entries."""
        return self.add(self.decoder_bias.expand(size, -1), values, entries)

    def add(self, total: Tensor, values: Tensor, entries: Entries) -> Tensor:
        """Rows [size, D] with what entries decode to added."""
        size = len(total)
        for block, inside, local in self._split(entries):
            mine = values if inside is None else values.index_select(0, inside)
            decoded = sparse_decode(mine, block.decoder(), local, size)
            total = total + widen(decoded, block.columns, total.shape[1])
        return total

    @torch.no_grad()
    def encode(self, rows: Tensor, select: tuple[str, int] | None = None) -> tuple[Entries, Tensor]:
        """Entries and values of standardised rows [row, D], at inference.

        Each score at or above its feature's threshold fires; with `select`, the name of a rule of
        KEEPS_K and its k, those fire that training selects in such a batch.
        """
        return self.selected(*self.score_at_inference(rows), select)

    @torch.no_grad()
    def selected(
        self, scores: Scores, weight: Tensor, select: tuple[str, int] | None = None
    ) -> tuple[Entries, Tensor]:
        """The same from what `score` gives, for whoever selects by several rules."""
        if select is None:
            entries, selected = scores.at_least(self.threshold)
        else:
            rule, k = select
            entries, selected = KEEPS_K[rule].largest(scores, k)
        return entries, selected / weight[entries[1]]

    @torch.no_grad()
    def values_at(self, rows: Tensor, entries: Entries) -> Tensor:
        """Values [n] of standardised rows [row, D] at given entries, by row; 0 where none fires.

        As `encode` gives them, but for the last bits: no other score is computed.
        """
        parts, weight = self._linear()
        scores, feature = scores_at(rows, parts, entries), entries[1]
        fires = (scores >= self.threshold[feature]) & (scores > 0)
        return (scores / weight[feature]).where(fires, scores.new_zeros(()))

    @torch.no_grad()
    def reconstruct(self, rows: Tensor, select: tuple[str, int] | None = None) -> Tensor:
        """Reconstruction [row, D] of standardised rows, at inference."""
        entries, values = self.encode(rows, select)
        return self.decode(values, entries, len(rows))

    def _split(self, entries: Entries) -> Iterator[tuple[Block, Tensor | None, Entries]]:
        """For each block the positions of its entries (None: all), and these counted from its first."""
        if len(self.blocks) == 1:
            (block,) = self.blocks.values()
            yield block, None, entries
            return
        for block in self.blocks.values():
            yield block, *localise(entries, block.features)

    # --- files ---

    def save(self, path: Path | str, metadata: Mapping[str, Any]) -> None:
        """Write everything needed to use the dictionary, `metadata` beside it.

        Whole, where ranks hold parts: all of them must ask for it, and the first one writes.
        """
        tensors, part = self.state_dict(), self.part
        about = {**metadata, "shape": asdict(self.shape if part is None else part.whole)}
        if self.normaliser.name != NONE:
            about["normalise"] = self.normaliser.name
        if part is None:
            artifact.write_tensors(path, tensors, about)
        elif part.ranks.leads:
            part.write(path, tensors, about)
        else:
            part.give(tensors)

    @classmethod
    def load(cls, path: Path | str, part: Part | None = None) -> tuple[Dictionary, dict[str, Any]]:
        """A dictionary, or a part of it, and its metadata. Raises DamagedError when the file is not whole."""
        tensors, metadata = artifact.read_tensors(path)
        artifact.check_format(path, metadata)
        sizes = metadata["shape"]
        shape = Shape(**sizes | {key: tuple(sizes[key]) for key in ("widths", "exclusive")})
        normaliser = NORMALISERS[metadata.get("normalise", NONE)](shape.widths)
        dictionary = cls(shape, normaliser=normaliser, part=part)
        if part is not None:
            tensors = part.own(tensors)
        dictionary.load_state_dict(tensors, strict=True)
        return dictionary.requires_grad_(False), metadata


@torch.no_grad()
def in_float64(dictionary: Dictionary, device: torch.device | None = None) -> Dictionary:
    """The dictionary in float64 on `device` (None: where it lies), without gradients.

    The caller's object keeps its dtype, its device and its bytes. One that is so already is given
    back as it is: who measures a dictionary several times calls this once and passes the result on.
    """
    tensors = [*dictionary.parameters(), *dictionary.buffers()]
    device = tensors[0].device if device is None else device
    converted = [tensor.to(device, torch.float64) for tensor in tensors]
    if all(new is old for new, old in zip(converted, tensors, strict=True)):
        return dictionary
    # Each tensor is converted once: a copy in float32 first would double what is held at the peak.
    known = {
        id(old): nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new
        for old, new in zip(tensors, converted, strict=True)
    }
    return copy.deepcopy(dictionary, known)
