"""Data on disk while a job needs it: in files without a name, gone with the process however it ends.

They are read by `pread` and not mapped: mapped pages count as the process's own, and memory would follow
what was touched. What was read lately the system holds anyway, as long as it has room.
"""

from __future__ import annotations

import copy
import os
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from moediff.core.errors import writing

BUFFER = 1 << 16  # bytes that are gathered before they are written


class _File:
    """Bytes in a folder (None: where the system puts what is temporary). Raises UserError on a full disk."""

    def __init__(self, folder: Path | str | None) -> None:
        self.folder = Path(folder or tempfile.gettempdir())
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = tempfile.TemporaryFile(buffering=BUFFER, dir=self.folder)  # noqa: SIM115

    def write(self, values: Any) -> None:
        with writing(self.folder):
            self.file.write(values)

    def flush(self) -> None:
        with writing(self.folder):
            self.file.flush()

    def read_into(self, target: memoryview, place: int) -> None:
        """Fill `target` [byte] with what stands from `place` on."""
        while len(target):  # one read gives 2 GB at most
            count = os.preadv(self.file.fileno(), [target], place)
            if not count:
                raise OSError(f"a temporary file in {self.folder} is shorter than what was written")
            target, place = target[count:], place + count


class Records:
    """Records of bytes by number; 8 bytes of memory each."""

    def __init__(self, folder: Path | str | None = None) -> None:
        self._file, self._ends, self._flushed = _File(folder), array("q", [0]), True

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, *parts: Any) -> None:
        """The next record, of bytes and arrays one after another."""
        size = 0
        for part in parts:
            data = memoryview(part).cast("B") if len(part) else b""
            self._file.write(data)
            size += len(data)
        self._ends.append(self._ends[-1] + size)
        self._flushed = False

    def __getitem__(self, number: int) -> bytearray:
        if not self._flushed:
            self._file.flush()
            self._flushed = True
        start, stop = self._ends[number], self._ends[number + 1]
        found = bytearray(stop - start)
        self._file.read_into(memoryview(found), start)
        return found


class Rows:
    """An array [row, ...] that is appended to, then read by slices or numbers of rows; no memory a row.

    Read as numpy's is, by its first axis alone; numpy makes a whole array of it where it is asked for one.
    """

    def __init__(
        self, dtype: Any, shape: Sequence[int] = (), folder: Path | str | None = None
    ) -> None:
        self.dtype, self._inner = np.dtype(dtype), tuple(shape)
        self._bytes = self.dtype.itemsize * int(np.prod(self._inner, dtype=np.int64))
        self._file, self._first, self._count, self._flushed = _File(folder), 0, 0, True

    def __len__(self) -> int:
        return self._count

    @property
    def shape(self) -> tuple[int, ...]:
        return self._count, *self._inner

    @property
    def size(self) -> int:
        return self._count * int(np.prod(self._inner, dtype=np.int64))

    def append(self, values: np.ndarray) -> None:
        """More rows [row, ...]."""
        if values.shape[1:] != self._inner:
            raise ValueError(f"rows of shape {values.shape[1:]} beside rows of {self._inner}")
        values = np.ascontiguousarray(values, self.dtype)
        if values.size:
            self._file.write(values.reshape(-1).view(np.uint8).data)
            self._count += len(values)
            self._flushed = False

    def part(self, rows: slice) -> Self:
        """A stretch of the rows, on the same file."""
        start, stop, step = rows.indices(self._count)
        if step != 1:
            raise ValueError("a stretch of rows has no step")
        self._flush()
        found = copy.copy(self)
        found._first, found._count = self._first + start, max(0, stop - start)
        return found

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        self._flush()
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self._count)
            found = np.empty((max(0, stop - start), *self._inner), self.dtype)
            if found.size:
                self._file.read_into(_bytes(found), (self._first + start) * self._bytes)
            return found[::step] if step > 0 else self[np.arange(start, stop, step)]
        numbers = np.asarray(rows)
        if numbers.size and not -self._count <= numbers.min() <= numbers.max() < self._count:
            raise IndexError(f"rows {numbers.min()} to {numbers.max()} of {self._count}")
        found = np.empty((len(numbers), *self._inner), self.dtype)
        for place, number in enumerate(numbers.tolist()):
            row = self._first + number % self._count
            self._file.read_into(_bytes(found[place : place + 1]), row * self._bytes)
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def _flush(self) -> None:
        if not self._flushed:
            self._file.flush()
            self._flushed = True


def _bytes(values: np.ndarray) -> memoryview:
    return values.reshape(-1).view(np.uint8).data
