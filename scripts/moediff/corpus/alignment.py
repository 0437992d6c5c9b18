"""The same text by several tokenizers: whose tokens end at the same character of a document.

There all models have read the same text, and their activations can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from tokenizers import Tokenizer

from moediff.core.errors import UserError
from moediff.corpus.encoding import encode
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard

PADDING = -1  # document and group of what fills a sequence that is shorter than others
_NOT_THE_SAME = (
    "token shards of one split do not hold the same text in the same sequences; remove those in "
    "retokenised/ and run again"
)


# --- another tokenizer ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Segments:
    """The segments of a shard in order; arrays are [segment]."""

    sequence: np.ndarray
    document: np.ndarray
    group: np.ndarray
    domain: np.ndarray
    start: np.ndarray  # characters start..end lie in it whole
    end: np.ndarray
    closed: np.ndarray  # whether its last token covers nothing, as an end of text does


def retokenise(
    shard: TokenShard,
    texts: Mapping[int, str],
    tokenizer: Tokenizer,
    end_of_text: int,
    begin_of_text: int | None = None,
) -> dict[str, np.ndarray]:
    """The arrays [sequence, position] of a shard with its text by another tokenizer.

    A segment gets those tokens of its whole document that lie inside its characters, and the end
    of text if it has that; so words are split as in the document, and a segment may be empty. A
    character that the edge of a sequence cuts is in neither segment (at the edges of the shard,
    where nothing is known of what lies beyond, it counts as whole). Sequences end up of different
    lengths: end-of-text tokens of the document PADDING fill them to the longest, without span.
    `texts` holds the text of every document of the shard. With `begin_of_text` that token stands before each
    segment that is not empty; like the end of text it covers nothing, so that it is never a row.
    """
    segments = _segments(shard)
    new_document = segments.document[1:] != segments.document[:-1]
    groups = np.split(np.arange(len(segments.document)), np.flatnonzero(new_document) + 1)
    documents = [int(segments.document[group[0]]) for group in groups]
    encoded = encode(tokenizer, (texts[document] for document in documents), end_of_text)
    pieces: list[dict[str, np.ndarray]] = []
    for group, document in zip(groups, encoded, strict=True):
        pieces += _inside(document, segments, group)
    if begin_of_text is not None:
        pieces = [_begun(piece, begin_of_text) for piece in pieces]
    lengths = np.array([len(piece["tokens"]) for piece in pieces])
    flat = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    flat["document"] = np.repeat(segments.document, lengths)
    flat["group"] = np.repeat(segments.group, lengths)
    flat["domain"] = np.repeat(segments.domain, lengths)
    sizes = np.zeros(len(shard.tokens), np.int64)
    np.add.at(sizes, segments.sequence, lengths)
    return _padded(flat, sizes, {"tokens": end_of_text, "document": PADDING, "group": PADDING})


def _segments(shard: TokenShard) -> _Segments:
    starts = segment_starts(shard.document)
    document, start, end = (array.ravel() for array in (shard.document, shard.start, shard.end))
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(document)) - 1
    # Of a character cut by an edge, the token before the edge and the one after have the span.
    begin, stop = start[first], end[last]
    goes_on = document[first[1:]] == document[last[:-1]]
    begin[1:] = np.where(goes_on, np.maximum(begin[1:], end[last[:-1]]), begin[1:])
    stop[:-1] = np.where(goes_on, np.minimum(stop[:-1], start[first[1:]]), stop[:-1])
    return _Segments(
        np.nonzero(starts)[0], document[first], shard.group[starts], shard.domain[starts], begin, stop,
        start[last] == end[last],
    )  # fmt: skip


def _inside(
    document: Mapping[str, np.ndarray], segments: _Segments, group: np.ndarray
) -> list[dict[str, np.ndarray]]:
    """The tokens of a document that lie whole in each of its segments `group`."""
    first = np.searchsorted(document["start"][:-1], segments.start[group])
    last = np.searchsorted(document["end"][:-1], segments.end[group], side="right")
    last = np.maximum(first, last)
    ended = segments.closed[group] & (segments.end[group] == document["end"][-1])
    return [
        {name: array[i:j] for name, array in document.items()}
        for i, j in zip(first, last + ended, strict=True)
    ]


def _begun(piece: dict[str, np.ndarray], begin_of_text: int) -> dict[str, np.ndarray]:
    """The arrays [token] of a segment, where it has any, with a beginning of text before them."""
    if not len(piece["tokens"]):
        return piece
    place = piece["start"][0]
    first = {"tokens": begin_of_text, "start": place, "end": place, "word_end": False}
    return {name: np.insert(array, 0, first[name]) for name, array in piece.items()}


def _padded(
    flat: Mapping[str, np.ndarray], sizes: np.ndarray, fill: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Arrays [sequence, position] of the first `sizes` positions each, the rest filled (with 0)."""
    inside = np.arange(max(1, sizes.max())) < sizes[:, None]
    arrays = {}
    for name, values in flat.items():
        arrays[name] = np.full(inside.shape, fill.get(name, 0), values.dtype)
        arrays[name][inside] = values
    return arrays


# --- alignment --------------------------------------------------------------------------------


def boundaries(shard: TokenShard) -> np.ndarray:
    """Positions after which all text up to `end` has been read: [sequence, position] of bool.

    Of several tokens of one character only the last is one, also where a sequence ends between
    them. Padding and tokens that cover nothing (ends of text) are none.
    """
    real = shard.document != PADDING
    document, start, end = (array[real] for array in (shard.document, shard.start, shard.end))
    read = start < end
    read[:-1] &= (document[1:] != document[:-1]) | (start[1:] >= end[:-1])
    mask = np.zeros(real.shape, bool)
    mask[real] = read
    return mask


def aligned(
    shards: Sequence[TokenShard], keep: Sequence[np.ndarray] | None = None
) -> list[np.ndarray]:
    """Masks [sequence, position], one a shard, of rows that end where a row of every shard does.

    `keep` masks the rows of each shard that may be taken (None: all); only `boundaries` ever are,
    so ends of text, which are special tokens, are not. The masks select equally many rows of the
    same sequence, document, domain and end, in the same order. Raises UserError where the shards
    do not hold the same text in the same sequences.
    """
    sequences = {(shard.first, len(shard.tokens), shard.domains) for shard in shards}
    if len(sequences) > 1:
        raise UserError(_NOT_THE_SAME)
    masks = [boundaries(shard) for shard in shards]
    if keep is not None:
        masks = [mask & wanted for mask, wanted in zip(masks, keep, strict=True)]
    keys = _keys(shards, masks)
    common = reduce(np.intersect1d, keys)
    for mask, key in zip(masks, keys, strict=True):
        mask[np.nonzero(mask)] = np.isin(key, common)
    places = [_places(shard, mask) for shard, mask in zip(shards, masks, strict=True)]
    for other in places[1:]:
        if not all(map(np.array_equal, places[0], other)):
            raise UserError(_NOT_THE_SAME)
    return masks


def _places(shard: TokenShard, mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sequence, document, domain and end [row] of the rows in `mask`."""
    sequence = np.nonzero(mask)[0]
    return sequence, shard.document[mask], shard.domain[mask], shard.end[mask].astype(np.int64)


def _keys(shards: Sequence[TokenShard], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """One integer a row [row], the same for rows of equal sequence, document and end."""
    rows = [_places(shard, mask) for shard, mask in zip(shards, masks, strict=True)]
    count = len(shards[0].tokens)
    documents = _ranks([document for _, document, _, _ in rows])
    segments = _ranks(
        [rank * count + sequence for rank, (sequence, *_) in zip(documents, rows, strict=True)]
    )
    longest = 1 + max(int(shard.end.max()) for shard in shards)
    return [rank * longest + end for rank, (*_, end) in zip(segments, rows, strict=True)]


def _ranks(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The place of every value among all distinct ones, which keeps products of them small."""
    known = np.unique(np.concatenate(arrays))
    return [np.searchsorted(known, array) for array in arrays]


def alignment_report(shard: TokenShard, mask: np.ndarray, keep: np.ndarray) -> dict[str, int]:
    """Counts of rows in `keep`, which could be compared, and in `mask`, which are; of each, word ends.

    Both masks are [sequence, position]. The share of word ends tells how the rows compared differ
    from all.
    """
    return {
        "rows": int(keep.sum()),
        "kept": int(mask.sum()),
        "word_ends": int(shard.word_end[keep].sum()),
        "word_ends_kept": int(shard.word_end[mask].sum()),
    }
