"""Does a feature come again? Features of a dictionary matched to those of others by what they do.

Decoders of models trained apart stand in unrelated bases, so that a cosine between them means
nothing. Every dictionary reads the same text, though, and what two features do there can be
compared:

    r = cov(f, g) / (sd f  sd g)    over all rows, of values, 0 where a feature does not fire

the Pearson correlation by which features of separate SAEs are matched in Bricken et al. 2023 and
2410.06981. A feature of the first dictionary has a match in another where the largest r there is at
least MATCH, and *recurs* in as many dictionaries as it has matches (our definition). A feature that
fires on a handful of rows needs only as few common ones to match, so read this beside `fired`.

    F  features of the first dictionary      G  features of another
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from moediff.activations.rows import AlignedRows
from moediff.core.progress import Progress
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.entries import Entries

MATCH = 0.7  # about half of the variance of either is that of the other
NONE = -1  # the match of a feature that has none
CELLS = 1 << 26  # of tables [F, G] in float64 that are held at once: 512 MiB
PAIRS = 1 << 20  # of entries on one row that are multiplied at once: some 80 MB
_ROUNDING = 1e-12  # of a sum of squares: a variance below is that of a constant


@dataclass(frozen=True)
class Matches:
    """The feature of another dictionary that goes best with each feature [F] of the first."""

    correlation: np.ndarray  # NaN where a feature never varies, or none of the other does
    feature: np.ndarray  # NONE there


class _Values:
    """Sums over rows of the values of a dictionary's features."""

    def __init__(self, features: int, device: torch.device) -> None:
        self.sum = torch.zeros(features, dtype=torch.float64, device=device)
        self.square = torch.zeros_like(self.sum)

    def add(self, entries: Entries, values: Tensor) -> None:
        """Count entries and values [n]."""
        self.sum.index_add_(0, entries[1], values)
        self.square.index_add_(0, entries[1], values.square())

    def spread(self, rows: int) -> Tensor:
        """Sum of squares about the mean; 0 where a feature never varies."""
        squares = self.square - self.sum.square() / rows
        return torch.where(squares > _ROUNDING * self.square, squares, 0.0)


@dataclass(frozen=True)
class _Table:
    """Products of some features of the first dictionary and all of another, summed over rows."""

    other: int  # number of the other dictionary
    start: int  # first feature of the first one
    stop: int
    product: Tensor  # [stop - start, G]

    def add(
        self, first: Entries, values: Tensor, second: Entries, others: Tensor, rows: int
    ) -> None:
        """Count the entries and values of both on the same `rows` rows."""
        mine = ((first[1] >= self.start) & (first[1] < self.stop)).nonzero().squeeze(1)
        row, feature = first[0][mine], first[1][mine] - self.start
        cells, width = self.product.view(-1), self.product.shape[1]
        for place, partner in _pairs(row, second[0], rows):
            cell = feature[place] * width + second[1][partner]
            cells.index_add_(0, cell, values[mine[place]] * others[partner])

    def best(self, first: _Values, second: _Values, rows: int) -> tuple[Tensor, Tensor]:
        """Largest correlation of each feature [stop - start] and with which; the table is used up."""
        part = slice(self.start, self.stop)
        spread, others = first.spread(rows)[part], second.spread(rows)
        table = self.product.addr_(first.sum[part], second.sum, alpha=-1 / rows)  # covariances
        table.div_(spread.sqrt()[:, None]).div_(others.sqrt()).clamp_(-1, 1)
        table.masked_fill_(others == 0, -torch.inf)
        value, feature = table.max(1)
        known = (spread > 0) & (others > 0).any()
        return torch.where(known, value, torch.nan), torch.where(known, feature, NONE)


@torch.no_grad()
def best_matches(
    first: Dictionary,
    others: Sequence[Dictionary],
    data: AlignedRows,
    batch: int,
    device: torch.device,
    cells: int = CELLS,
) -> list[Matches]:
    """Best correlation of every feature of `first` with a feature of each of the others.

    `data` has the sources of `first`, then those of each other dictionary in turn. By the thresholds,
    in float64, over all rows. Holds `cells` products; where the tables of all others have more, rows
    are read again for those that are left.
    """
    dictionaries = [in_float64(one, device) for one in (first, *others)]
    matches = [
        Matches(np.full(first.shape.features, np.nan), np.full(first.shape.features, NONE))
        for _ in others
    ]
    widths = [other.shape.features for other in others]
    zeros = partial(torch.zeros, dtype=torch.float64, device=device)
    for parts in _passes(first.shape.features, widths, cells):
        tables = [
            _Table(other, start, stop, zeros(stop - start, widths[other]))
            for other, start, stop in parts
        ]
        values = _read(dictionaries, tables, data, batch, device)
        for table in tables:
            part = slice(table.start, table.stop)
            best = table.best(values[0], values[1 + table.other], data.count)
            matches[table.other].correlation[part] = best[0].cpu().numpy()
            matches[table.other].feature[part] = best[1].cpu().numpy()
    return matches


def _passes(
    features: int, widths: Sequence[int], cells: int
) -> Iterator[list[tuple[int, int, int]]]:
    """What each pass over the rows counts: numbers of other dictionaries, and first features from, to."""
    held: list[tuple[int, int, int]] = []
    free = cells
    for other, width in enumerate(widths):
        block = max(1, cells // width)
        for start in range(0, features, block):
            stop = min(start + block, features)
            if held and (stop - start) * width > free:
                yield held
                held, free = [], cells
            held.append((other, start, stop))
            free -= (stop - start) * width
    yield held


def _read(
    dictionaries: Sequence[Dictionary],
    tables: Sequence[_Table],
    data: AlignedRows,
    batch: int,
    device: torch.device,
) -> dict[int, _Values]:
    """Fill tables in one pass; sums of the first dictionary and of those that the tables ask for."""
    ends = np.cumsum([len(one.shape.widths) for one in dictionaries])
    numbers = sorted({0} | {1 + table.other for table in tables})
    sums = {n: _Values(dictionaries[n].shape.features, device) for n in numbers}
    progress = Progress(data.count, "recurrence", "rows")
    for sources in data.in_order(batch):
        codes = {}
        for n in numbers:
            own = sources[ends[n] - len(dictionaries[n].shape.widths) : ends[n]]
            rows = dictionaries[n].standardise([part.to(device) for part in own])
            codes[n] = dictionaries[n].encode(rows)
            sums[n].add(*codes[n])
        for table in tables:
            table.add(*codes[0], *codes[1 + table.other], len(sources[0]))
        progress.advance(len(sources[0]))
    progress.close()
    return sums


def _pairs(first: Tensor, second: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of an entry of one code and one of another on the same row: places in both.

    `first` and `second` are the rows of entries, rising. About PAIRS pairs come at once.
    """
    each = torch.bincount(second, minlength=rows)  # [row]
    begin = each.cumsum(0) - each
    size = each[first]  # partners of each entry
    end = size.cumsum(0)
    cuts = torch.div(end, PAIRS, rounding_mode="floor").unique_consecutive(return_counts=True)[1]
    for place in torch.arange(len(first), device=first.device).split(cuts.tolist()):
        many = size[place]
        before = torch.repeat_interleave(many.cumsum(0) - many, many)
        place = torch.repeat_interleave(place, many)
        nth = torch.arange(len(place), device=place.device) - before
        yield place, begin[first[place]] + nth


def recurrence(
    matches: Mapping[str, Matches], models: Mapping[str, Sequence[str]], own: Sequence[str]
) -> pl.DataFrame:
    """One row a feature: its best match in each SAE, and in how many of each model's SAEs it recurs.

    `matches` are by name of the SAE's source, `models` names the sources of each model, `own` those
    that the features' dictionary was itself fitted on, which are not counted. Columns: `feature`;
    `best_{source}`, the correlation, and `match_{source}`, the SAE's feature; `recurs_{model}`, SAEs
    with a match, and `recurs_of_{model}`, how many were counted. Null where a feature never varies.
    """
    count = len(next(iter(matches.values())).correlation)
    columns: dict[str, np.ndarray] = {"feature": np.arange(count)}
    for source, match in matches.items():
        columns[f"best_{source}"] = match.correlation
        columns[f"match_{source}"] = match.feature
    for model, sources in models.items():
        counted = [matches[source].correlation for source in sources if source not in own]
        recurs = sum((best >= MATCH for best in counted), np.zeros(count, np.int64))
        columns[f"recurs_{model}"] = np.where(_known(matches), recurs, NONE)
        columns[f"recurs_of_{model}"] = np.full(count, len(counted))
    return pl.DataFrame(columns).with_columns(
        pl.selectors.float().fill_nan(None), pl.selectors.integer().replace(NONE, None)
    )


def _known(matches: Mapping[str, Matches]) -> np.ndarray:
    """Whether a feature [F] was correlated with any."""
    return np.any([match.feature != NONE for match in matches.values()], axis=0)
