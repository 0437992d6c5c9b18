"""What goes when features are deleted: the share of each source's variance that they explain.

Deleting features takes their part C out of a reconstruction whose residual is e, so the squared
error of a row rises by |e + C|^2 - |e|^2 = 2 e.C + |C|^2. Summed over all validation rows and
divided by SST, as in FVE, that is the share of the variance which goes with them (our definition).
It is below 0 where a reconstruction is better without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from moediff.activations.rows import AlignedRows
from moediff.analysis.evaluation import coded, standard_moments
from moediff.core.bootstrap import Units
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.entries import Entries
from moediff.dictionaries.products import sparse_decode
from moediff.dictionaries.scores import backend


class _Pass:
    """One pass of a dictionary over rows, in float64 and by its thresholds, and each source's SST."""

    def __init__(
        self, dictionary: Dictionary, data: AlignedRows, batch: int, device: torch.device, name: str
    ) -> None:
        self.dictionary = in_float64(dictionary, device)
        self.data, self.batch, self.device, self.name = data, batch, device, name
        self.sources = [dictionary.shape.columns(s) for s in range(len(dictionary.shape.widths))]
        self.decoders = [part.contiguous() for part in self.dictionary.decoders()]  # [F, d_s]
        # Sums of squares about the validation mean, since moments are of these rows: [D], [S].
        self.mean, self.total = standard_moments(self.dictionary, data, batch, device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Entries, Tensor]]:
        """Rows and their residual [row, D], entries and values [n] of each batch."""
        for rows, entries, values in coded(
            self.dictionary, self.data, self.batch, self.device, self.name
        ):
            residual = rows - self.dictionary.decode(values, entries, len(rows))
            yield rows, residual, entries, values

    def shares(self, squares: Tensor, place: Tensor, count: int) -> np.ndarray:
        """Sums [count, S] of squares [row, D] by the places of their rows, as shares of each SST."""
        by_source = torch.stack([squares[:, own].sum(1) for own in self.sources], dim=1)
        sums = by_source.new_zeros(count, len(self.sources))
        return sums.index_add_(0, place, by_source).cpu().numpy() / self.total


@torch.no_grad()
def deleted_alone(
    dictionary: Dictionary, data: AlignedRows, batch: int, device: torch.device
) -> np.ndarray:
    """Share [F, S] of each source's variance that goes when one feature alone is deleted."""
    run = _Pass(dictionary, data, batch, device, "deletion")
    norms = torch.stack([part.square().sum(1) for part in run.decoders], dim=1)  # [F, S]
    lost = torch.zeros_like(norms)
    for _, residual, entries, values in run:
        for s, columns in enumerate(run.sources):
            part = residual[:, columns].contiguous()
            along = backend(part).row_dots(part, run.decoders[s], entries)
            more = values * (2 * along + values * norms[entries[1], s])
            lost[:, s].index_add_(0, entries[1], more)
    return lost.cpu().numpy() / run.total


@torch.no_grad()
def deleted_together(
    dictionary: Dictionary,
    data: AlignedRows,
    group_of: np.ndarray,
    groups: int,
    batch: int,
    device: torch.device,
) -> np.ndarray:
    """Share [group, S] of each source's variance that goes when all features of a group are deleted.

    `group_of` [F] is the group of every feature, from 0 to `groups` - 1; -1: of none.
    """
    run = _Pass(dictionary, data, batch, device, "deletion by group")
    decoder = torch.cat(run.decoders, dim=1)  # [F, D]
    mine = torch.from_numpy(np.asarray(group_of, np.int64)).to(device)
    lost = torch.zeros(groups, len(run.sources), dtype=torch.float64, device=device)
    for _, residual, (rows, features), values in run:
        group = mine[features]
        for number in group.unique().tolist():
            if number < 0:
                continue
            inside = (group == number).nonzero().squeeze(1)
            touched, place = rows[inside].unique(return_inverse=True)
            gone = sparse_decode(
                values[inside], decoder, (place, features[inside]), len(touched)
            )  # [row, D]
            more = gone * (2 * residual[touched] + gone)
            lost[number] += torch.stack([more[:, columns].sum() for columns in run.sources])
    return lost.cpu().numpy() / run.total


@torch.no_grad()
def deleted_by_group(
    dictionary: Dictionary,
    data: AlignedRows,
    deleted: Sequence[np.ndarray],
    batch: int,
    device: torch.device,
) -> tuple[Units, np.ndarray, np.ndarray]:
    """What groups of documents have in the shares of `deleted_together`, for each mask [F] by itself.

    Masks are of bool. Returns the groups [n], what goes in them [mask, n, S] and what they hold of the
    variance [n, S], the last two as shares of each source's SST.
    """
    run = _Pass(dictionary, data, batch, device, "deletion by group of documents")
    decoder = torch.cat(run.decoders, dim=1)  # [F, D]
    masks = [torch.from_numpy(mask).to(device) for mask in deleted]
    groups = data.groups
    count = groups.units.size()
    lost = np.zeros((len(masks), count, len(run.sources)))
    held = np.zeros((count, len(run.sources)))
    labels = (data.column_in_order(name, batch) for name in ("domain", "group"))
    for (rows, residual, (row, features), values), domain, group in zip(run, *labels, strict=True):
        place = torch.from_numpy(groups.place(domain.numpy(), group.numpy())).to(device)
        held += run.shares((rows - run.mean).square(), place, count)
        for of_mask, mask in zip(lost, masks, strict=True):
            inside = mask[features]
            entries = row[inside], features[inside]
            gone = sparse_decode(values[inside], decoder, entries, len(rows))  # [row, D]
            of_mask += run.shares(gone * (2 * residual + gone), place, count)
    return groups.units, lost, held
