"""Which numbers were seen before, in 8 bytes each."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RECENT = 1 << 16  # numbers in a set of Python's, which takes ten times as much


class Seen:
    """A set of 64-bit integers that only grows: the latest in a set, the rest in sorted arrays.

    Each array is at least twice as long as the one after it, so that there are few. Where two are merged
    both and what becomes of them are in memory: 16 bytes a number for a moment.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._recent) + sum(map(len, self._sorted))

    def add(self, number: int) -> bool:
        """Whether a number is new; it is not any more."""
        if number in self._recent or any(_holds(known, number) for known in self._sorted):
            return False
        self._recent.add(number)
        if len(self._recent) >= RECENT:
            import numpy as np

            self._sorted.append(np.sort(np.fromiter(self._recent, np.int64, len(self._recent))))
            self._recent.clear()
            while len(self._sorted) > 1 and len(self._sorted[-2]) < 2 * len(self._sorted[-1]):
                merged = np.concatenate([self._sorted.pop(), self._sorted.pop()])
                merged.sort()
                self._sorted.append(merged)
        return True


def _holds(known: np.ndarray, number: int) -> bool:
    values = known.data  # a memoryview gives Python's own numbers, in a third of the time
    place = bisect_left(values, number)
    return place < len(values) and values[place] == number
