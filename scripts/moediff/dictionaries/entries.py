"""A sparse code: its entries, row after row."""

from __future__ import annotations

from torch import Tensor

Entries = tuple[Tensor, Tensor]  # rows [n], features [n]

# An entry costs about as much as twenty numbers of a dense product: beyond one score in twenty the
# products are taken whole (docs/engine.md).
ENTRY_COST = 20


def crowded(entries: Entries, size: int, features: int) -> bool:
    """Whether sums over entries of [size, features] cost more than dense products."""
    return len(entries[0]) * ENTRY_COST > size * features


def localise(entries: Entries, features: slice) -> tuple[Tensor, Entries]:
    """Positions of the entries of a stretch of features, and those entries counted from its first."""
    rows, all_features = entries
    inside = (
        ((all_features >= features.start) & (all_features < features.stop)).nonzero().squeeze(1)
    )
    return inside, (rows[inside], all_features[inside] - features.start)
