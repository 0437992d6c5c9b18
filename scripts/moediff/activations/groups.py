"""The groups of documents that the rows of a split are of: drawn whole, and halved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from moediff.core.bootstrap import Units
from moediff.core.errors import UserError

MOST = 0.75  # of a domain's rows that may be kept out
HALVES = 2


def documents(columns: Iterable[Mapping[str, np.ndarray]]) -> pl.DataFrame:
    """Domain, group, id and number of rows of every document, by domain, then group, then id.

    `columns` are `domain`, `group` and `document` [row] of one part of the rows after another.
    """
    names = ["domain", "group", "document"]
    parts = [
        pl.DataFrame({name: part[name].astype(np.int64) for name in names}).group_by(names).len()
        for part in columns
    ]
    return pl.concat(parts).group_by(names).agg(pl.sum("len").alias("rows")).sort(names)


def draw(known: pl.DataFrame, rows: int, total: int, seed: Sequence[int]) -> np.ndarray:
    """Ids of documents of one domain for its share of `rows` of `total` rows: of groups drawn at random.

    `known` has the domain's rows of `documents`. Groups are whole; the last one is cut between
    documents where the whole of it would be more than twice the share, or most of all rows. Raises
    UserError where documents are too large for that too.
    """
    names, counts = known["document"].to_numpy(), known["rows"].to_numpy()
    random = np.random.default_rng(seed)
    groups, place = np.unique(known["group"].to_numpy(), return_inverse=True)
    turn = np.empty(len(groups), np.int64)  # of each group: group after group at random,
    turn[random.permutation(len(groups))] = np.arange(len(groups))
    # and inside a group document after document.
    order = np.lexsort([random.permutation(len(names)), turn[place]])
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

    def __init__(self, known: pl.DataFrame) -> None:
        """`known` as `documents` gives it."""
        names = ["domain", "group"]
        groups = known.group_by(names).agg(pl.sum("rows")).sort(names)
        domain, group = (groups[name].to_numpy() for name in names)
        self.units = Units(group, domain)  # [n], by domain, then id
        self._ids, at = np.unique(group, return_inverse=True)
        domains = int(domain.max()) + 1
        self._place = np.full((domains, len(self._ids)), -1)  # [domain, id], in `units`
        self._place[domain, at] = np.arange(len(groups))
        held = np.zeros((domains, HALVES), np.int64)  # rows so far
        self._half = np.zeros(len(groups), np.int64)
        for number, (own, _, rows) in enumerate(groups.iter_rows()):
            self._half[number] = half = held[own].argmin()
            held[own, half] += rows

    def place(self, domain: np.ndarray, group: np.ndarray) -> np.ndarray:
        """Place in `units` of each row [row], of its domain and the id of its group."""
        return self._place[domain, np.searchsorted(self._ids, group)]

    def half(self, domain: np.ndarray, group: np.ndarray) -> np.ndarray:
        """0 or 1 for each row [row], of its domain and the id of its group."""
        return self._half[self.place(domain, group)]
