"""The groups of documents that the rows of a split are of: drawn whole, and halved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from moediff.core.bootstrap import Units
from moediff.core.errors import UserError

MOST = 0.75  # of a domain's rows that may be kept out
HALVES = 2


class Documents(NamedTuple):
    """The documents of rows, by domain, then group, then id; arrays are [document]."""

    domain: np.ndarray
    group: np.ndarray
    document: np.ndarray
    rows: np.ndarray  # so many of each

    def of(self, domain: int) -> Documents:
        """Those of one domain."""
        return Documents(*(column[self.domain == domain] for column in self))


def documents(columns: Iterable[tuple[np.ndarray, ...]]) -> Documents:
    """The documents of rows, whose domain, group and document [row] come part by part."""
    known = [np.empty(0, np.int64)] * 4
    for part in columns:
        keys = [
            np.concatenate([old, new.astype(np.int64)])
            for old, new in zip(known, part, strict=False)
        ]
        counts = np.concatenate([known[3], np.ones(len(part[0]), np.int64)])
        known = [*_summed(keys, counts)]
    return Documents(*known)


def _summed(keys: Sequence[np.ndarray], counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Keys [n] each once, in their order, and the sum of their counts [n]."""
    order = np.lexsort(keys[::-1])
    keys = [key[order] for key in keys]
    new = np.logical_or.reduce([np.diff(key, prepend=key[:1] - 1) != 0 for key in keys])
    first = np.flatnonzero(new)
    return *(key[first] for key in keys), np.add.reduceat(counts[order], first)


def draw(known: Documents, rows: int, total: int, seed: Sequence[int]) -> np.ndarray:
    """Ids of documents of one domain for its share of `rows` of `total` rows: of groups drawn at random.

    `known` are the domain's documents. Groups are whole; the last one is cut between documents where the
    whole of it would be more than twice the share, or most of all rows. Raises UserError where documents
    are too large for that too.
    """
    names, counts = known.document, known.rows
    random = np.random.default_rng(seed)
    groups, place = np.unique(known.group, return_inverse=True)
    # Group after group at random, and inside a group document after document.
    order = np.lexsort([random.permutation(len(names)), random.permutation(len(groups))[place]])
    inside = int(counts.sum())
    wanted = -(-rows * inside // total)
    sums = np.cumsum(counts[order])
    enough = int(np.searchsorted(sums, wanted)) + 1
    whole = int(np.flatnonzero(place[order] == place[order[enough - 1]])[-1]) + 1
    chosen = whole if sums[whole - 1] <= min(2 * wanted, MOST * inside) else enough
    if sums[chosen - 1] > MOST * inside:
        raise UserError(
            f"the fit split has {inside} rows in {len(names)} documents of one domain: too few to "
            f"keep {wanted} out for the threshold; raise corpus.tokens.fit or lower threshold_rows"
        )
    return names[order[:chosen]]


class Groups:
    """The groups of a split, and two halves of it that are made of whole ones.

    Of every domain about half of the rows are in each half: its groups come in the order of their
    ids, which are hashes (of external activations whatever they are), and go to the half that has fewer
    rows of the domain so far. The only group of a domain is in the first half.
    """

    def __init__(self, known: Documents) -> None:
        domain, group, rows = _summed([known.domain, known.group], known.rows)
        self.units = Units(group, domain)  # [n], by domain, then id
        self._ids, at = np.unique(group, return_inverse=True)
        domains = int(domain.max()) + 1
        self._place = np.full((domains, len(self._ids)), -1)  # [domain, id], in `units`
        self._place[domain, at] = np.arange(len(group))
        held = np.zeros((domains, HALVES), np.int64)  # rows so far
        self._half = np.zeros(len(group), np.int64)
        for number, own in enumerate(domain):
            self._half[number] = half = held[own].argmin()
            held[own, half] += rows[number]

    def place(self, domain: np.ndarray, group: np.ndarray) -> np.ndarray:
        """Place in `units` of each row [row], of its domain and the id of its group."""
        return self._place[domain, np.searchsorted(self._ids, group)]

    def half(self, domain: np.ndarray, group: np.ndarray) -> np.ndarray:
        """0 or 1 for each row [row], of its domain and the id of its group."""
        return self._half[self.place(domain, group)]
