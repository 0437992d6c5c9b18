"""Which rows a feature fires on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch

from moediff.activations.rows import AlignedRows
from moediff.analysis.evaluation import coded
from moediff.dictionaries.dictionary import Dictionary


@dataclass(frozen=True)
class Firings:
    """The features that fire on each row: those of row r are `features[starts[r] : starts[r + 1]]`.

    Four bytes a firing, eight a row.
    """

    features: np.ndarray  # [firing], int32
    starts: np.ndarray  # [row + 1], int64
    count: int  # features there are, F

    @classmethod
    def of_sizes(cls, features: np.ndarray, sizes: np.ndarray, count: int) -> Self:
        """From the number of firings of each row [row]."""
        return cls(features, np.concatenate([[0], np.cumsum(sizes)]), count)

    @property
    def sizes(self) -> np.ndarray:
        """Firings of each row [row]."""
        return np.diff(self.starts)

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Place in `rows`, which are row numbers, and feature of each of their firings."""
        sizes = self.sizes[rows]
        first = np.cumsum(sizes) - sizes
        place = np.repeat(np.arange(len(rows)), sizes)
        return place, self.features[np.arange(len(place)) + (self.starts[rows] - first)[place]]

    def fired(self) -> np.ndarray:
        """Rows on which each feature fires [F]."""
        return np.bincount(self.features, minlength=self.count)

    def take(self, rows: np.ndarray) -> Self:
        """Those of some rows, in that order."""
        return self.of_sizes(self.of(rows)[1], self.sizes[rows], self.count)


class Part(NamedTuple):
    """All rows of some token ids."""

    fired: Firings
    tokens: np.ndarray  # [row]
    experts: np.ndarray  # [row, k], each at most once a row


@torch.no_grad()
def firings(
    dictionary: Dictionary, data: AlignedRows, batch: int, device: torch.device
) -> Iterator[Firings]:
    """What a dictionary fires on each batch of rows, by its thresholds, in float64 as `evaluation` does."""
    for rows, (row, feature), _ in coded(dictionary, data, batch, device, "firings"):
        sizes = torch.bincount(row, minlength=len(rows)).cpu().numpy()
        yield Firings.of_sizes(
            feature.to(torch.int32).cpu().numpy(), sizes, dictionary.shape.features
        )


class _Block(NamedTuple):
    """Some token ids, with all their rows. A pair is a feature and an id in which it fires."""

    rows: np.ndarray  # [row], numbers, id by id
    stratum: np.ndarray  # [row], which id, from 0
    place: np.ndarray  # [firing], its row's place in `rows`
    pair: np.ndarray  # [firing], number of its pair
    feature: np.ndarray  # [pair], sorted
    of: np.ndarray  # [pair], its id
    n: np.ndarray  # [pair], rows of the id
    a: np.ndarray  # [pair], firings among them


def firing_blocks(fired: Firings, tokens: np.ndarray, cells: int) -> Iterator[_Block]:
    """The token ids that occur twice or more, as many at once as fire `cells` times, one at least."""
    order = np.argsort(tokens, kind="stable")
    sizes = np.unique(tokens, return_counts=True)[1]
    order, sizes = order[np.repeat(sizes > 1, sizes)], sizes[sizes > 1]
    ends = np.cumsum(sizes)
    each = np.add.reduceat(fired.sizes[order], ends - sizes) if len(sizes) else sizes
    for first, last in cuts(np.maximum(each, sizes), cells):
        inside = sizes[first:last]
        rows = order[ends[first] - sizes[first] : ends[last - 1]]
        stratum = np.repeat(np.arange(len(inside)), inside)
        place, feature = fired.of(rows)
        key = feature.astype(np.int64) * len(inside) + stratum[place]
        found, pair, a = np.unique(key, return_inverse=True, return_counts=True)
        feature, of = np.divmod(found, len(inside))
        yield _Block(rows, stratum, place, pair, feature, of, inside[of], a)


def cuts(sizes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """First and last of stretches whose sizes sum to at most `most`, or that are one long."""
    sums, first = np.concatenate([[0], np.cumsum(sizes)]), 0
    while first < len(sizes):
        last = int(np.searchsorted(sums, sums[first] + most, "right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last
