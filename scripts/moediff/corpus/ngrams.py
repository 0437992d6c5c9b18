"""Cross-entropy of n-gram models on the tokens that a language model is trained and measured on.

Interpolated absolute discounting (Ney, Essen, Kneser 1994; Chen & Goodman 1999, section 2.7, with
plain counts for the lower orders), one discount an order, estimated as n1 / (n1 + 2 n2):

    p(w | h) = max(c(h, w) - D, 0) / c(h) + D * N1+(h) / c(h) * p(w | h')

where h' is h without its oldest token; below the unigram stands the uniform distribution.

Distinct n-grams and their counts lie sorted on disk, and so does what is known of every validation token:
memory is that of a block, whatever the length of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moediff.core.scratch import Rows
from moediff.corpus.token_shards import TokenSplit

BLOCK = 1 << 19  # tokens whose n-grams are counted, or looked up, at once
STRETCH = 1 << 18  # n-grams of a table that are read at once
LEAF = 1 << 16  # numbers of a sum that are added at once
ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3}


def ngram_losses(
    train: TokenSplit,
    validation: TokenSplit,
    vocabulary: int,
    scratch: Path | str | None = None,
) -> list[dict]:
    """Nats a token of each order on `validation`, over all its domains and for each.

    Counts never cross a segment, and exactly the positions are scored that a language model is
    scored on. Returns rows {model, domain, cross_entropy}; domain "all" is the mean over tokens. Files
    under `scratch` hold 16 bytes a distinct n-gram (twice that while they are merged), and 9 a target.
    """
    rows = []
    domain, probability = Rows(np.uint8, (), scratch), Rows(np.float64, (), scratch)
    for block in _blocks(validation):
        domain.append(block.domain[:][:, 1:][block.is_target[:]])
    for some in _stretches(len(domain)):
        probability.append(np.full(some.stop - some.start, 1.0 / vocabulary))
    for name, order in ORDERS.items():
        table = _counts(train, order, vocabulary, scratch)
        if len(table):  # else no stretch of the training text is as long
            probability = _interpolate(table, validation, order, vocabulary, probability, scratch)
        for label, index in [
            ("all", None),
            *((name, i) for i, name in enumerate(validation.domains)),
        ]:
            mean = _mean_loss(probability, domain, index)
            if mean is not None:
                rows.append({"model": name, "domain": label, "cross_entropy": mean})
    return rows


def _blocks(split: TokenSplit) -> Iterator[TokenSplit]:
    """The sequences of a split, a few at a time."""
    size = max(1, BLOCK // split.tokens.shape[1])
    for first in range(0, len(split), size):
        yield split.part(slice(first, first + size))


def _stretches(count: int) -> Iterator[slice]:
    for first in range(0, count, STRETCH):
        yield slice(first, min(first + STRETCH, count))


# --- the mean loss ----------------------------------------------------------------------------


def _mean_loss(probability: Rows, domain: Rows, index: int | None) -> float | None:
    """Mean of -log p over the targets of one domain (None: of all); None where there is no target."""
    count = len(domain)
    if index is not None:
        count = sum(int((domain[some] == index).sum()) for some in _stretches(len(domain)))
    if not count:
        return None
    held, parts = np.empty(0), _stretches(len(domain))

    def take(number: int) -> np.ndarray:
        nonlocal held
        while len(held) < number:
            some = next(parts)
            loss = -np.log(probability[some])
            held = np.concatenate([held, loss if index is None else loss[domain[some] == index]])
        found, held = held[:number], held[number:]
        return found

    return float(_pairwise_sum(count, take) / count)


def _pairwise_sum(count: int, take: Callable[[int], np.ndarray]) -> np.floating:
    """The sum of `count` numbers, of which `take` gives the next few: that of numpy over all, bit by bit.

    numpy adds two halves, the first a multiple of 8, and so on down; a leaf here is a part that it would
    come to as well.
    """
    if count <= LEAF:
        return np.add.reduce(take(count))
    half = count // 2
    half -= half % 8
    return _pairwise_sum(half, take) + _pairwise_sum(count - half, take)


# --- probabilities ----------------------------------------------------------------------------


class Found(NamedTuple):
    """What a table holds of n-grams that were asked for; arrays are [n-gram]."""

    times: np.ndarray  # c(h, w)
    total: np.ndarray  # c(h)
    kinds: np.ndarray  # N1+(h)


def _interpolate(
    table: Table,
    validation: TokenSplit,
    order: int,
    vocabulary: int,
    lower: Rows,
    scratch: Path | str | None,
) -> Rows:
    """p(w | h) of `order` at every target of `validation`, given that of the order below.

    A target with less history than `order - 1` tokens in its segment keeps the lower order.
    """
    once = twice = 0
    for some in _stretches(len(table)):
        counts = table.counts[some]
        once, twice = once + int((counts == 1).sum()), twice + int((counts == 2).sum())
    discount = once / (once + 2 * twice) if once else 0.5
    probability = Rows(np.float64, (), scratch)
    for block in _blocks(validation):
        wanted, has_history = _ngrams(block, order, vocabulary)
        below = lower[len(probability) : len(probability) + len(wanted)]
        keys, place = np.unique(wanted, return_inverse=True)
        found = _find(table, keys, vocabulary)
        count, total, kinds = (values[place] for values in found)
        known = has_history & (total > 0)
        safe = np.where(known, total, 1)
        mixed = np.maximum(count - discount, 0) / safe + discount * kinds / safe * below
        probability.append(np.where(known, mixed, below))
    return probability


def _find(table: Table, wanted: np.ndarray, vocabulary: int) -> Found:
    """What a table holds of sorted n-grams: 0 where it has none."""
    found = Found(*(np.zeros(len(wanted), np.int64) for _ in Found._fields))
    for keys, counts in _by_context(table, vocabulary):
        contexts, first = np.unique(keys // vocabulary, return_index=True)
        ends = contexts[0] * vocabulary, (contexts[-1] + 1) * vocabulary
        here = slice(*np.searchsorted(wanted, ends))
        if here.start == here.stop:
            continue
        context = wanted[here] // vocabulary
        found.times[here] = _look_up(keys, counts, wanted[here])
        found.total[here] = _look_up(contexts, np.add.reduceat(counts, first), context)
        found.kinds[here] = _look_up(contexts, np.diff(np.append(first, len(keys))), context)
    return found


def _by_context(table: Table, vocabulary: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A table a few n-grams at a time, all that begin alike together: at most a vocabulary more."""
    held = np.empty(0, np.int64), np.empty(0, np.int64)
    for some in _stretches(len(table)):
        keys, counts = map(np.concatenate, zip(held, table[some], strict=True))
        whole = len(keys)
        if some.stop < len(table):  # what the last of these begins may go on
            whole = int(np.searchsorted(keys, keys[-1] // vocabulary * vocabulary))
        held = keys[whole:], counts[whole:]
        if whole:
            yield keys[:whole], counts[:whole]


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values of `wanted` among sorted `keys`; 0 where absent."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


# --- counts -----------------------------------------------------------------------------------


class Table:
    """Distinct n-grams, sorted, and how often each stands there, on disk."""

    def __init__(self, scratch: Path | str | None) -> None:
        self.keys, self.counts = Rows(np.int64, (), scratch), Rows(np.int64, (), scratch)

    def __len__(self) -> int:
        return len(self.keys)

    def append(self, keys: np.ndarray, counts: np.ndarray) -> None:
        self.keys.append(keys)
        self.counts.append(counts)

    def __getitem__(self, some: slice) -> tuple[np.ndarray, np.ndarray]:
        return self.keys[some], self.counts[some]


def _counts(split: TokenSplit, order: int, vocabulary: int, scratch: Path | str | None) -> Table:
    """The n-grams of `split`: counted block by block, and merged by sizes alike."""
    parts: list[Table] = []
    for block in _blocks(split):
        keys, whole = _ngrams(block, order, vocabulary)
        parts.append(Table(scratch))
        parts[-1].append(*np.unique(keys[whole], return_counts=True))
        while len(parts) > 1 and len(parts[-2]) < 2 * len(parts[-1]):
            parts.append(_merged(parts.pop(), parts.pop(), scratch))
    while len(parts) > 1:
        parts.append(_merged(parts.pop(), parts.pop(), scratch))
    return parts[0]


def _merged(first: Table, second: Table, scratch: Path | str | None) -> Table:
    """The n-grams of two tables in one: up to where both are read, stretch after stretch."""
    merged, tables, places = Table(scratch), (first, second), [0, 0]
    while any(place < len(table) for place, table in zip(places, tables, strict=True)):
        parts = [table[at : at + STRETCH] for at, table in zip(places, tables, strict=True)]
        # Of a table that goes on nothing is known beyond what was read.
        read = [
            keys[-1]
            for (keys, _), at, table in zip(parts, places, tables, strict=True)
            if at + len(keys) < len(table)
        ]
        for number, (keys, counts) in enumerate(parts):
            size = int(np.searchsorted(keys, min(read), side="right")) if read else len(keys)
            parts[number] = keys[:size], counts[:size]
            places[number] += size
        keys, counts = map(np.concatenate, zip(*parts, strict=True))
        order = np.argsort(keys, kind="stable")
        found, at = np.unique(keys[order], return_index=True)
        merged.append(found, np.add.reduceat(counts[order], at) if len(at) else counts)
    return merged


def _ngrams(split: TokenSplit, order: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """At every target of `split`: its n-gram as one integer, and whether its history is whole."""
    tokens, starts, is_target = (
        split.tokens[:].astype(np.int64),
        split.starts[:],
        split.is_target[:],
    )
    width = tokens.shape[1]
    key = np.zeros(tokens.shape, np.int64)
    whole = np.ones(tokens.shape, bool)
    for back in range(order - 1, -1, -1):
        shifted = np.zeros_like(tokens)
        shifted[:, back:] = tokens[:, : width - back]
        key = key * vocabulary + shifted
    for back in range(order - 1):  # no start may lie between the oldest token and the target
        crossed = np.ones(tokens.shape, bool)
        crossed[:, back:] = starts[:, : width - back]
        whole &= ~crossed
    return key[:, 1:][is_target], whole[:, 1:][is_target]
