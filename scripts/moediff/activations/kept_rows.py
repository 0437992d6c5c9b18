"""Which tokens of a shard have a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moediff.activations.shards import COLUMNS
from moediff.corpus.alignment import PADDING, aligned, alignment_report
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard


@dataclass(frozen=True)
class Kept:
    """The rows of a token shard that are stored."""

    mask: np.ndarray  # [sequence, position] of bool
    columns: dict[str, np.ndarray]  # COLUMNS, each [row]
    left_out: dict[str, int]  # rows by reason; a row counts for the first that applies
    alignment: dict[str, int] | None  # of `alignment_report`, where tokenizers differ


def kept_rows(
    shard: TokenShard,
    drop: Mapping[str, Any],
    across_documents: bool,
    others: Sequence[TokenShard] = (),
) -> Kept:
    """Which rows of a shard to store.

    A sequence start is the first position that attention sees: of the sequence, and, when attention
    does not cross documents, of each document in it. `others` are the same text by other
    tokenizers: only rows are kept that end where a row of each of them does, which would be kept
    there too.
    """
    reasons = _reasons(shard, drop, across_documents)
    mask = ~np.logical_or.reduce(list(reasons.values()))
    alignment = None
    if others:
        allowed = [
            ~np.logical_or.reduce(list(_reasons(other, drop, across_documents).values()))
            for other in others
        ]
        usable = mask
        mask, *_ = aligned([shard, *others], [mask, *allowed])
        alignment = alignment_report(shard, mask, usable)
        reasons["unaligned"] = usable & ~mask
    left_out, counted = {}, np.zeros(mask.shape, bool)
    for name, where in reasons.items():
        left_out[name] = int((where & ~counted).sum())
        counted |= where
    sequence, position = np.nonzero(mask)
    columns = {
        "token": shard.tokens[mask],
        "document": shard.document[mask],
        "group": shard.group[mask],
        "sequence": sequence + shard.first,
        "position": position,
        "domain": shard.domain[mask],
        "start": shard.start[mask],
        "end": shard.end[mask],
    }
    return Kept(mask, {name: columns[name] for name in COLUMNS}, left_out, alignment)


def _reasons(
    shard: TokenShard, drop: Mapping[str, Any], across_documents: bool
) -> dict[str, np.ndarray]:
    """Masks [sequence, position] of rows that are left out, by reason."""
    starts = segment_starts(shard.document, across_documents)
    return {
        "padding": shard.document == PADDING,
        "special_tokens": np.isin(shard.tokens, shard.special) & drop["special_tokens"],
        "sequence_start": starts & drop["sequence_start"],
    }
