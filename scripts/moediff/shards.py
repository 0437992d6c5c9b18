"""One activation shard: written once, verified whenever it is read.

A shard is one Zarr v3 group in one zip file. Its arrays, flat and named:

    token, document, sequence, position, domain, start, end   [row], what each row is
    {point}            [row, d_model]  activations at a hook point, times 2^exponent
    {point}.mean, {point}.spread       [d_model], float64: moments of the rows, massive ones apart
    {point}.massive    [row]           only where rows of massive norm are marked
    experts.{layer}, gates.{layer}     [row, k], what the MoE of a layer used
    probabilities.{layer}              [row, expert], the router's, when asked for

Rows stand in an order drawn at random from what they are, the same for every model: each chunk is a
sample of the whole shard, so that a few chunks mix many documents. Each chunk is written once; the
zip's own CRC-32 guards it, and the list of names guards against an absent one (which Zarr would
read as zeros).
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.storage import MemoryStore, ZipStore

from moediff import artifact
from moediff.errors import DamagedError, UserError, unreadable
from moediff.moments import Moments

# Of two models with one tokenizer these say that rows are the same tokens in the same places; of
# two with different tokenizers `PLACES` say that both have read the same text.
TOKENS = ("token", "document", "sequence", "position", "domain")
PLACES = ("document", "sequence", "end", "domain")
MIXED_BY = ("document", "sequence", "domain")  # decide the order: equal whatever the tokenizers
TYPES = {
    "token": np.uint32, "document": np.int64, "sequence": np.int64, "position": np.int32,
    "domain": np.uint8, "start": np.uint32, "end": np.uint32,
}  # fmt: skip
COLUMNS = tuple(TYPES)
FOREIGN = "rows"  # hook point of rows that other code wrote
NARROW = 64  # bytes of a row up to which an array is one chunk
RECENT = 8  # such arrays that a process holds
FLUSHED = 1 << 23  # bytes written between two flushes
MOST_OPEN = 64  # shards; a process may hold 256 files on some systems
Columns = Mapping[str, np.ndarray]


# --- what is stored -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """How the activations of one hook point are stored."""

    hook: str  # hook and layer, as "resid_post.2"
    width: int
    exponent: int
    most: float | None = None  # norm above which a row is massive


def scale_exponent(rms: float, dtype: str) -> int:
    """Power of two that brings a hook point's root mean square near 1; exact in binary.

    float16 then holds values from 6e-8 to 65,504 times the typical size.
    """
    return 0 if dtype == "float32" or rms == 0 else -round(math.log2(rms))


def mixed_order(seed: str, count: int) -> np.ndarray:
    """Number, as captured, of the row at each place of a shard."""
    return np.random.default_rng(int(seed, 16)).permutation(count)


# --- writing ------------------------------------------------------------------------------------


class ShardWriter:
    """Gathers the rows of one shard in memory, as captured, and writes them at once in their mixed order.

    Memory is the shard's own size. Raises UserError at a value that is not finite or does not fit
    `dtype`, naming the document and the file `origin` that the rows come from.
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
        self._put(name, stored, part)
        counted, finite = stored, True
        if point.most is not None:
            massive = values.norm(dim=1) > point.most
            self._put(f"{name}.massive", massive, part)
            counted, finite = stored[~massive], bool(torch.isfinite(stored[massive]).all())
        sums = self.sums[name]
        sums.add(counted)
        if not finite or not np.isfinite(sums.spread).all():  # a sum shows what any of its rows has
            raise self._not_finite(name, values, stored)

    def _not_finite(self, name: str, values: Tensor, stored: Tensor) -> UserError:
        row = int((~torch.isfinite(stored).all(1)).nonzero()[0])
        finite = bool(torch.isfinite(values[row]).all())
        problem = f"overflows {str(self.dtype)[6:]}" if finite else "is not a finite number"
        return UserError(
            f"{self.origin}: an activation of document {self.columns['document'][self.done + row]:015x} at "
            f"{name} {problem}; "
            + ("set activations.dtype to float32" if finite else "the model is broken there")
        )

    def _wrong_count(self, found: int) -> UserError:
        return UserError(f"{self.path}: {found} rows were captured, {self.count} were expected")

    def write(self, facts: Mapping[str, Any]) -> None:
        """Write the shard, whole or not at all; every row must have been added."""
        if self.done != self.count:
            raise self._wrong_count(self.done)
        rows = {**self.columns, **{name: table.numpy() for name, table in self.tables.items()}}
        sums = {}
        for name, point in self.points.items():  # in the model's own units; exact
            sums[f"{name}.mean"] = np.ldexp(self.sums[name].mean, -point.exponent)
            sums[f"{name}.spread"] = np.ldexp(self.sums[name].spread, -2 * point.exponent)
        seed = self._digest(MIXED_BY)
        attributes = {
            **facts,
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
        order = mixed_order(seed, self.count)
        arrays = [
            _Array(name, part, self._chunk_size(name, part), order) for name, part in rows.items()
        ]
        arrays += [_Array(name, part, len(part), None) for name, part in sums.items()]
        with artifact.whole(self.path) as partial:
            _write(partial, attributes, arrays)

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
            archive.writestr(key, described[key].to_bytes())
        flushes, flushed = [], 0
        for array in arrays:
            for number, chunk in enumerate(array.chunks()):
                archive.writestr(_key(array.name, number, chunk.ndim), chunk.data.cast("B"))
                if file.tell() - flushed > FLUSHED:
                    flushes.append(flusher.submit(os.fsync, file.fileno()))
                    flushed = file.tell()
        for flush in flushes:
            flush.result()


def _key(name: str, number: int, ndim: int) -> str:
    """Name of a chunk of an array that is cut along its first axis."""
    return f"{name}/c/{number}" + "/0" * (ndim - 1)


# --- reading ------------------------------------------------------------------------------------


class Shard:
    """One activation shard, verified when opened: whole, with every chunk there once.

    At most MOST_OPEN shards hold their file open; the one longest unread is closed for another and
    opens again when it is read.
    """

    _open: ClassVar[OrderedDict[Shard, None]] = OrderedDict()  # the latest read last
    _recent: ClassVar[OrderedDict[tuple[Shard, str], np.ndarray]] = OrderedDict()

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.file: int | None = None
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such activation shard")
        try:
            with zipfile.ZipFile(self.path) as archive:
                self.members = {part.filename: part for part in archive.infolist()}
                count = len(archive.infolist())
            store = ZipStore(self.path, mode="r")
            group = zarr.open_group(store, mode="r")
            self.facts = dict(group.attrs)
            artifact.check_format(self.path, self.facts)
            self.points: dict[str, dict[str, Any]] = self.facts["points"]
            self.count: int = self.facts["count"]
            self.arrays = {name: group[name] for name in self.facts["arrays"]}
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a damaged zip or group raises a dozen unrelated classes
            raise unreadable(self.path, "not a whole activation shard", error) from error
        store.close()
        self._check_parts(count)

    def _check_parts(self, count: int) -> None:
        """Every array that must be there, and every chunk of it, once, and nothing else."""
        needed = {*COLUMNS, *self.points}
        needed |= {f"{point}.{sums}" for point in self.points for sums in ("mean", "spread")}
        expected = {f"{name}/{p}" for name, array in self.arrays.items() for p in _parts(array)}
        names = set(self.members)
        odd = sorted(needed - set(self.arrays)) + sorted(names ^ (expected | {"zarr.json"}))
        if not odd and count != len(names):
            odd = ["a name that stands twice"]
        if odd:
            raise DamagedError(self.path, f"its parts are not those written ({odd[0]})")

    # --- which point ---

    def point(self, name: str | None) -> str:
        """The hook point of that name; of a shard that has only one, that one."""
        if name is None and len(self.points) == 1:
            return next(iter(self.points))
        if name not in self.points:
            raise UserError(
                f"{self.path}: has no hook point '{name}'; it has {', '.join(self.points)}"
            )
        return name

    def width(self, point: str) -> int:
        return self.arrays[point].shape[1]

    @property
    def chunk_rows(self) -> int:
        return self.arrays[next(iter(self.points))].chunks[0]

    def routed(self) -> list[int]:
        """Layers whose routing is stored."""
        names = (name.partition(".") for name in self.arrays)
        return sorted(int(layer) for kind, _, layer in names if kind == "experts")

    def order(self) -> np.ndarray:
        """Number, as captured, of the row at each place."""
        return mixed_order(self.facts["order_seed"], self.count)

    # --- values ---

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Stored values [start:stop] of one array.

        Raises DamagedError at a chunk whose checksum is wrong.
        """
        array = self.arrays[name]
        stop = array.shape[0] if stop is None else min(stop, array.shape[0])
        if start >= stop:
            return np.empty((0, *array.shape[1:]), array.dtype)
        size = array.chunks[0]
        if size == array.shape[0]:
            return self._whole(name, array)[start:stop]
        parts = [
            self._chunk(name, array, number)[max(start - number * size, 0) : stop - number * size]
            for number in range(start // size, -(-stop // size))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _whole(self, name: str, array: zarr.Array) -> np.ndarray:
        """An array of one chunk; the latest are held, since rows ask for them stretch by stretch."""
        kept = Shard._recent.pop((self, name), None)
        Shard._recent[self, name] = self._chunk(name, array, 0) if kept is None else kept
        while len(Shard._recent) > RECENT:
            Shard._recent.popitem(last=False)
        return Shard._recent[self, name]

    def _chunk(self, name: str, array: zarr.Array, number: int) -> np.ndarray:
        """One chunk by one read of the file, as Zarr lays it down: raw, little-endian, padded."""
        part = self.members[_key(name, number, array.ndim)]
        content = np.empty(array.chunks, array.dtype)
        if part.compress_type != zipfile.ZIP_STORED or part.file_size != content.nbytes:
            raise DamagedError(self.path, f"array '{name}' is not as it was written")
        try:
            place = self._offset(part)
            size = os.preadv(self._handle(), [content.data.cast("B")], place)
        except (OSError, IndexError, OverflowError) as error:
            raise unreadable(self.path, f"array '{name}' is damaged", error) from error
        if size != content.nbytes or zlib.crc32(content.data.cast("B")) != part.CRC:
            raise DamagedError(self.path, f"array '{name}' is damaged (chunk {number})")
        return content[: array.shape[0] - number * array.chunks[0]]

    def _handle(self) -> int:
        if self.file is None:
            self.file = os.open(self.path, os.O_RDONLY)
        Shard._open[self] = None
        Shard._open.move_to_end(self)
        while len(Shard._open) > MOST_OPEN:
            Shard._open.popitem(last=False)[0]._close()
        return self.file

    def _close(self) -> None:
        if self.file is not None:
            os.close(self.file)
            self.file = None

    def _offset(self, part: zipfile.ZipInfo) -> int:
        """Where a part's content begins: behind its local header, which has lengths of its own."""
        header = os.pread(self._handle(), 30, part.header_offset)
        return (
            part.header_offset + 30 + header[26] + 256 * header[27] + header[28] + 256 * header[29]
        )

    def __del__(self) -> None:
        self._close()

    def stored(self, point: str, start: int, stop: int) -> Tensor:
        """Activations [row, d_model] as they are stored, times 2^exponent."""
        return torch.from_numpy(self.read(point, start, stop))

    def rows(self, start: int, stop: int, point: str | None = None) -> Tensor:
        """Activations in the model's own units, float32 [row, d_model]."""
        name = self.point(point)
        return restored(self.stored(name, start, stop), self.points[name]["exponent"])

    def massive(self, point: str) -> np.ndarray | None:
        """Rows of massive norm [row] at a hook point; None where none were marked."""
        name = f"{point}.massive"
        return self.read(name) if name in self.arrays else None

    def moments(self, point: str) -> Moments:
        """Moments of the rows of a hook point, massive ones apart."""
        found = Moments(self.width(point))
        found.mean, found.spread = self.read(f"{point}.mean"), self.read(f"{point}.spread")
        found.count = self.count - self.facts["massive"].get(point, 0)
        return found


def restored(stored: Tensor, exponent: int) -> Tensor:
    """Stored values in the model's own units, float32; exact."""
    values = stored.float()
    return values if exponent == 0 else values * 2.0**-exponent


def _parts(array: zarr.Array) -> Iterator[str]:
    """Names inside the zip of what an array consists of."""
    yield "zarr.json"
    for index in np.ndindex(array.cdata_shape):
        yield f"c/{'/'.join(map(str, index))}"


def summary(paths: Sequence[Path | str]) -> dict[str, Any]:
    """What the shards of one model and split hold and what they leave out, from their attributes.

    `left_out` counts rows by reason, those of massive norm by hook point (they are stored, and left
    out when rows are read); `share_left_out` is of all tokens. Points have their total variance and
    the norm of their mean.
    """
    shards = [Shard(path) for path in paths]
    tokens = sum(shard.facts["tokens"] for shard in shards)
    left_out: Counter[str] = Counter()
    for shard in shards:
        left_out.update(shard.facts["left_out"])
        left_out.update({f"massive_norm {k}": v for k, v in shard.facts["massive"].items()})
    points = {}
    for name, stored in shards[0].points.items():
        sums = Moments(shards[0].width(name))
        for shard in shards:
            part = shard.moments(name)
            sums.merge(part.count, part.mean, part.spread)
        points[name] = stored | {
            "d_model": len(sums.mean),
            "total_variance": float(sums.spread.sum() / max(sums.count, 1)),
            "norm_of_mean": float(np.linalg.norm(sums.mean)),
        }
    return {
        "rows": sum(shard.count for shard in shards),
        "tokens": tokens,
        "left_out": dict(left_out),
        "share_left_out": {name: count / tokens for name, count in left_out.items()},
        "alignment": _alignment([shard.facts["alignment"] for shard in shards]),
        "points": points,
        "routed_layers": shards[0].routed(),
    }


def _alignment(parts: Sequence[Mapping[str, int] | None]) -> dict[str, float] | None:
    """Shares over all shards, from the counts of each; None where one tokenizer reads all."""
    if not parts or parts[0] is None:
        return None
    total = Counter()
    for part in parts:
        total.update(part)
    return dict(total) | {
        "share_kept": total["kept"] / max(total["rows"], 1),
        "word_ends": total["word_ends"] / max(total["rows"], 1),
        "word_ends_kept": total["word_ends_kept"] / max(total["kept"], 1),
    }
