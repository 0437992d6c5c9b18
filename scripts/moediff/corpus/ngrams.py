"""Cross-entropy of n-gram models on the tokens that a language model is trained and measured on.

Interpolated absolute discounting (Ney, Essen, Kneser 1994; Chen & Goodman 1999, section 2.7, with
plain counts for the lower orders), one discount an order, estimated as n1 / (n1 + 2 n2):

    p(w | h) = max(c(h, w) - D, 0) / c(h) + D * N1+(h) / c(h) * p(w | h')

where h' is h without its oldest token; below the unigram stands the uniform distribution.
"""

from __future__ import annotations

import numpy as np

from moediff.corpus.token_shards import TokenSplit

BLOCK = 1 << 14  # sequences whose n-grams are counted at once
ORDERS = {"unigram": 1, "bigram": 2, "trigram": 3}


def ngram_losses(train: TokenSplit, validation: TokenSplit, vocabulary: int) -> list[dict]:
    """Nats a token of each order on `validation`, over all its domains and for each.

    Counts never cross a segment, and exactly the positions are scored that a language model is
    scored on. Returns rows {model, domain, cross_entropy}; domain "all" is the mean over tokens.
    """
    rows = []
    target = validation.is_target
    domain = validation.domain[:, 1:][target]
    probability = np.full(int(target.sum()), 1.0 / vocabulary)
    for name, order in ORDERS.items():
        probability = _interpolate(train, validation, order, vocabulary, probability)
        loss = -np.log(probability)
        rows.append({"model": name, "domain": "all", "cross_entropy": float(loss.mean())})
        for index, label in enumerate(validation.domains):
            inside = loss[domain == index]
            if len(inside):
                rows.append({"model": name, "domain": label, "cross_entropy": float(inside.mean())})
    return rows


def _interpolate(
    train: TokenSplit, validation: TokenSplit, order: int, vocabulary: int, lower: np.ndarray
) -> np.ndarray:
    """p(w | h) of `order` at every target of `validation`, given that of the order below.

    A target with less history than `order - 1` tokens in its segment keeps the lower order.
    """
    found, counts = _counts(train, order, vocabulary)  # n-grams and c(h, w)
    if not len(found):  # no stretch of the training text is as long
        return lower
    contexts, first = np.unique(found // vocabulary, return_index=True)
    totals = np.add.reduceat(counts, first)  # c(h)
    kinds = np.diff(np.append(first, len(found)))  # N1+(h)
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    discount = once / (once + 2 * twice) if once else 0.5

    wanted, has_history = _ngrams(validation, order, vocabulary)
    count, _ = _look_up(found, counts, wanted)
    total, context = _look_up(contexts, totals, wanted // vocabulary)
    kind, _ = _look_up(contexts, kinds, wanted // vocabulary)
    known = has_history & context
    safe = np.where(known, total, 1)
    mixed = np.maximum(count - discount, 0) / safe + discount * kind / safe * lower
    return np.where(known, mixed, lower)


def _counts(split: TokenSplit, order: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct n-grams of `split`, sorted, and how often each stands there.

    Counted block by block and merged by sizes alike, so that memory follows the distinct n-grams.
    """
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for first in range(0, len(split), BLOCK):
        keys, full = _ngrams(split.part(slice(first, first + BLOCK)), order, vocabulary)
        parts.append(np.unique(keys[full], return_counts=True))
        while len(parts) > 1 and len(parts[-2][0]) < 2 * len(parts[-1][0]):
            parts.append(_merged(parts.pop(), parts.pop()))
    while len(parts) > 1:
        parts.append(_merged(parts.pop(), parts.pop()))
    return parts[0]


def _merged(*parts: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.concatenate([keys for keys, _ in parts])
    counts = np.concatenate([counts for _, counts in parts])
    order = np.argsort(keys, kind="stable")
    found, first = np.unique(keys[order], return_index=True)
    return found, np.add.reduceat(counts[order], first) if len(first) else counts


def _ngrams(split: TokenSplit, order: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """At every target of `split`: its n-gram as one integer, and whether its history is whole."""
    tokens = split.tokens.astype(np.int64)
    width = tokens.shape[1]
    key = np.zeros(tokens.shape, np.int64)
    whole = np.ones(tokens.shape, bool)
    for back in range(order - 1, -1, -1):
        shifted = np.zeros_like(tokens)
        shifted[:, back:] = tokens[:, : width - back]
        key = key * vocabulary + shifted
    for back in range(order - 1):  # no start may lie between the oldest token and the target
        crossed = np.ones(tokens.shape, bool)
        crossed[:, back:] = split.starts[:, : width - back]
        whole &= ~crossed
    return key[:, 1:][split.is_target], whole[:, 1:][split.is_target]


def _look_up(
    keys: np.ndarray, values: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values of `wanted` among sorted `keys` (0 where absent), and whether they are there."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    present = keys[place] == wanted
    return np.where(present, values[place], 0), present
