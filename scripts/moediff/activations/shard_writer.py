"""An activation shard written: rows mixed, arrays chunk by chunk into one zip."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.storage import MemoryStore

from moediff.activations.massive import standing_out
from moediff.activations.moments import Moments
from moediff.activations.rounding import Rounding
from moediff.activations.shards import (
    COLUMNS,
    MIXED_BY,
    PLACES,
    TYPES,
    Columns,
    Stored,
    array_key,
    mixed_order,
)
from moediff.core import artifact
from moediff.core.errors import UserError

# Of two models with one tokenizer these say that rows are the same tokens in the same places; of
# two with different tokenizers `PLACES` say that both have read the same text.
TOKENS = ("token", "document", "sequence", "position", "domain")

NARROW = 64  # bytes of a row up to which an array is one chunk
FLUSHED = 1 << 23  # bytes written between two flushes


class ShardWriter:
    """Gathers the rows of one shard in memory, as captured, and writes them at once in their mixed order.

    Memory is the shard's own size. Raises UserError at a value that is not finite or too large for
    `dtype`, and when too many are too small for it, naming row, document and the file `origin` that the
    rows come from.
    """

    def __init__(
        self,
        path: Path | str,
        columns: Columns,
        points: Mapping[str, Stored],
        dtype: str,
        chunk_rows: int,
        origin: Path | str | None = None,
    ) -> None:
        self.path, self.points, self.dtype = Path(path), points, getattr(torch, dtype)
        self.count, self.done, self.origin = len(columns["token"]), 0, origin or path
        if not self.count:
            raise UserError(f"{path}: every row of its token shard is left out")
        self.chunk_rows = min(chunk_rows, self.count)
        self.columns = {name: columns[name].astype(TYPES[name]) for name in COLUMNS}
        self.digests = {name: artifact.digest(column) for name, column in self.columns.items()}
        self.tables: dict[str, Tensor] = {}  # [row, ...], as captured
        self.sums = {
            name: Moments(point.width) for name, point in points.items()
        }  # of what is stored
        self.roundings = {name: Rounding() for name in points}
        for name, point in points.items():
            self._begin(name, (point.width,), self.dtype)
            if point.most is not None:
                self._begin(f"{name}.massive", (), torch.bool)

    def _begin(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.tables[name] = torch.empty((self.count, *shape), dtype=dtype)

    def _digest(self, names: tuple[str, ...]) -> str:
        """What two shards must share for their rows to be the same in these columns."""
        return artifact.digest(*(self.digests[name] for name in names))

    def add(self, rows: Mapping[str, Tensor], more: Mapping[str, Tensor] | None = None) -> None:
        """The next rows [row, d_model] of every hook point, and of any other array [row, ...]."""
        (count,) = {len(part) for part in (*rows.values(), *(more or {}).values())}
        if self.done + count > self.count:
            raise self._wrong_count(self.done + count)
        part = slice(self.done, self.done + count)
        for name, values in rows.items():
            self._add_rows(name, values.float(), part)
        for name, values in (more or {}).items():
            if name not in self.tables:
                self._begin(name, tuple(values.shape[1:]), values.dtype)
            self._put(name, values, part)
        self.done += count

    def _put(self, name: str, values: Tensor, part: slice) -> None:
        """By one thread: two that touch fresh memory at once hinder each other, to a tenth of the speed."""
        self.tables[name].numpy()[part] = values.numpy()

    def _add_rows(self, name: str, values: Tensor, part: slice) -> None:
        point = self.points[name]
        scaled = values if point.exponent == 0 else values * 2.0**point.exponent
        stored = scaled.to(self.dtype)
        counted, finite = stored, True
        if point.most is not None:
            massive = values.norm(dim=1) > point.most
            stored[massive] = self._bounded(scaled[massive])
            self._put(f"{name}.massive", massive, part)
            counted, finite = stored[~massive], bool(torch.isfinite(stored[massive]).all())
        self._put(name, stored, part)
        sums = self.sums[name]
        sums.add(counted)
        if not finite or not np.isfinite(sums.spread).all():  # a sum shows what any of its rows has
            raise self._not_finite(name, values, stored)
        self.roundings[name].add(values, stored)

    def _bounded(self, values: Tensor) -> Tensor:
        """Massive rows as `dtype` can hold them: nobody reads them, so they need not fit."""
        most = torch.finfo(self.dtype).max
        return torch.where(values.isfinite(), values.clamp(-most, most), values).to(self.dtype)

    def _not_finite(self, name: str, values: Tensor, stored: Tensor) -> UserError:
        row, column = (~torch.isfinite(stored)).nonzero()[0].tolist()
        value = float(values[row, column])
        finite = math.isfinite(value)
        problem = f"overflows {str(self.dtype)[6:]}" if finite else "is not a finite number"
        return UserError(
            f"{self.origin}: the activation {value:.3g} of {self._row(self.done + row)} at {name} {problem}; "
            + ("set activations.dtype to float32" if finite else "the model is broken there")
        )

    def _row(self, row: int) -> str:
        return f"row {row}, document {self.columns['document'][row]:015x}"

    def _refuse_lost_digits(self) -> None:
        for name, rounding in self.roundings.items():
            fault = rounding.fault()
            if fault:
                raise UserError(
                    f"{self.origin}: at {name} {fault}, times 2^{self.points[name].exponent} by the size "
                    f"of the first rows; the largest value here is {rounding.largest:.3g} of "
                    f"{self._row(rounding.largest_row)}: leave out rows that are broken, or set "
                    "activations.dtype to float32"
                )

    def _wrong_count(self, found: int) -> UserError:
        return UserError(f"{self.path}: {found} rows were captured, {self.count} were expected")

    def write(self, facts: Mapping[str, Any]) -> None:
        """Write the shard, whole or not at all; every row must have been added, and kept its digits."""
        if self.done != self.count:
            raise self._wrong_count(self.done)
        self._refuse_lost_digits()
        rows = {**self.columns, **{name: table.numpy() for name, table in self.tables.items()}}
        sums = {}
        for name, point in self.points.items():  # in the model's own units; exact
            sums[f"{name}.mean"] = np.ldexp(self.sums[name].mean, -point.exponent)
            sums[f"{name}.spread"] = np.ldexp(self.sums[name].spread, -2 * point.exponent)
        seed = self._digest(MIXED_BY)
        attributes = {
            "groups_digest": self._digest(("group",)),
            **facts,  # of external rows they may say that no groups were told
            "count": self.count,
            "order_seed": seed,
            "tokens_digest": self._digest(TOKENS),
            "places_digest": self._digest(PLACES),
            "points": {
                name: {"hook": point.hook, "exponent": point.exponent, "most": point.most}
                for name, point in self.points.items()
            },
            "massive": {
                name: int(self.tables[f"{name}.massive"].sum())
                for name, point in self.points.items()
                if point.most is not None
            },
            "arrays": sorted(rows | sums),
        }
        if standing_out := self._standing_out():
            attributes["standing_out"] = standing_out
        order = mixed_order(seed, self.count)
        arrays = [
            _Array(name, part, self._chunk_size(name, part), order) for name, part in rows.items()
        ]
        arrays += [_Array(name, part, len(part), None) for name, part in sums.items()]
        with artifact.whole(self.path) as partial:
            _write(partial, attributes, arrays)

    def _standing_out(self) -> dict[str, Any]:
        """By hook point, what `massive.standing_out` finds among the rows that are not left out."""
        found = {}
        for name, point in self.points.items():
            marked = self.tables.get(f"{name}.massive")
            found[name] = standing_out(
                self.tables[name].numpy(),
                self.sums[name],
                None if marked is None else marked.numpy(),
                self.columns,
                point.exponent,
            )
        return {name: part for name, part in found.items() if part}

    def _chunk_size(self, name: str, values: np.ndarray) -> int:
        """Rows of a chunk; what is narrow stays whole: tiny chunks cost more than they hold."""
        narrow = name not in self.points and values[:1].nbytes <= NARROW
        return self.count if narrow else self.chunk_rows


@dataclass(frozen=True)
class _Array:
    """An array of a shard and how it is cut."""

    name: str
    values: np.ndarray  # [row, ...] as captured, or [d_model]
    size: int  # of a chunk, along the first axis
    order: np.ndarray | None  # of the rows; None leaves them

    def chunks(self) -> Iterator[np.ndarray]:
        """Chunk by chunk, the last one padded with zeros; rows are put in order here, a few at a time."""
        for start in range(0, len(self.values), self.size):
            part = slice(start, start + self.size)
            chunk = (
                self.values[part] if self.order is None else self.values.take(self.order[part], 0)
            )
            missing = self.size - len(chunk)
            yield np.pad(chunk, [(0, missing)] + [(0, 0)] * (chunk.ndim - 1)) if missing else chunk


def _write(path: Path, attributes: Mapping[str, Any], arrays: Sequence[_Array]) -> None:
    """A Zarr group in a zip: Zarr describes the arrays, their chunks are laid down as it says.

    Zarr itself took twice as long to write them. Uncompressed: half-precision
    activations shrink by 6 % and read at half the speed.
    """
    described: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(described), attributes=dict(attributes))
    alike: dict[
        tuple, Any
    ] = {}  # arrays of one form share a description: Zarr takes its time for each
    for array in arrays:
        shape, dtype, key = array.values.shape, array.values.dtype, f"{array.name}/zarr.json"
        form = (shape, dtype, array.size)
        if form not in alike:
            group.create_array(
                array.name, shape=shape, chunks=(array.size, *shape[1:]), dtype=dtype,
                compressors=None, fill_value=0,
            )  # fmt: skip
            alike[form] = described[key]
        described[key] = alike[form]
    # What is written already goes to the disk beside the rest: the flush at the end then waits less.
    with (
        open(path, "wb") as file,
        zipfile.ZipFile(file, "w") as archive,
        ThreadPoolExecutor(1) as flusher,
    ):
        for key in sorted(described):
            archive.writestr(_entry(key), described[key].to_bytes())
        flushes, flushed = [], 0
        for array in arrays:
            for number, chunk in enumerate(array.chunks()):
                key = array_key(array.name, number, chunk.ndim)
                archive.writestr(_entry(key), chunk.data.cast("B"))
                if file.tell() - flushed > FLUSHED:
                    flushes.append(flusher.submit(os.fsync, file.fileno()))
                    flushed = file.tell()
        for flush in flushes:
            flush.result()


def _entry(key: str) -> zipfile.ZipInfo:
    """An entry of the zip without the time at which it is written: equal rows give equal bytes."""
    entry = zipfile.ZipInfo(key)  # of 1980, the first year that a zip knows
    entry.external_attr = 0o600 << 16  # as zipfile sets it where it is given a name only
    return entry
