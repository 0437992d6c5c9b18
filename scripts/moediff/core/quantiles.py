"""Quantiles of more numbers than fit in memory: exact, from passes over what is on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from moediff.core.scratch import Rows

READ = 1 << 18  # numbers at once
DIGIT = 16  # bits of a number that a pass tells
SIGN = np.uint64(1 << 63)


def quantiles(values: Sequence[Rows], shares: Sequence[float]) -> list[float]:
    """Quantiles of float64 numbers [n] in one or several parts, between 0 and 1 each, linear between two.

    NaN stands above all numbers; no numbers have NaN for any quantile. Memory: 0.5 MB a share.
    """
    count = sum(len(part) for part in values)
    if not count:
        return [float("nan")] * len(shares)
    places = [share * (count - 1) for share in shares]
    lower = [int(place) for place in places]
    found = _ranked(values, sorted({*lower, *(min(rank + 1, count - 1) for rank in lower)}))
    told = []
    for place, rank in zip(places, lower, strict=True):
        low, high = found[rank], found[min(rank + 1, count - 1)]
        told.append(low if place == rank else low + (place - rank) * (high - low))
    return told


def _ranked(values: Sequence[Rows], ranks: Sequence[int]) -> dict[int, float]:
    """The numbers at some ranks, 0 the smallest: their bits are told from the highest on, 16 in each pass."""
    begun = {
        rank: (0, rank) for rank in ranks
    }  # the bits so far, and the rank among those that begin so
    for shift in range(64 - DIGIT, -1, -DIGIT):
        counts = {bits: np.zeros(1 << DIGIT, np.int64) for bits, _ in begun.values()}
        for keys in _keys(values):
            ahead = keys >> np.uint64(shift)
            for bits, count in counts.items():
                # In two steps: a shift by all 64 bits is none.
                own = ahead[ahead >> np.uint64(DIGIT) == np.uint64(bits)]
                digits = (own & np.uint64((1 << DIGIT) - 1)).astype(np.int64)
                count += np.bincount(digits, minlength=1 << DIGIT)
        for rank, (bits, left) in begun.items():
            sums = np.cumsum(counts[bits])
            digit = int(np.searchsorted(sums, left, "right"))
            before = int(sums[digit - 1]) if digit else 0
            begun[rank] = bits << DIGIT | digit, left - before
    return {rank: _number(bits) for rank, (bits, _) in begun.items()}


def _keys(values: Sequence[Rows]) -> Iterator[np.ndarray]:
    """Unsigned numbers in the order of the floats, READ at a time; -0 as 0, and one NaN, the last."""
    for part in values:
        for start in range(0, len(part), READ):
            numbers = part[start : start + READ] + 0.0
            numbers[np.isnan(numbers)] = np.nan
            bits = numbers.view(np.uint64)
            yield np.where(bits & SIGN, ~bits, bits | SIGN)


def _number(key: int) -> float:
    bits = np.array([key], np.uint64)
    return float(np.where(bits & SIGN, bits ^ SIGN, ~bits).view(np.float64)[0])
