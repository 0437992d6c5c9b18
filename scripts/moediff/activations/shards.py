"""One activation shard: written once, verified whenever it is read.

A shard is one Zarr v3 group in one zip file. Its arrays, flat and named:

    token, document, group, sequence, position, domain, start, end   [row], what each row is
    {point}            [row, d_model]  activations at a hook point, times 2^exponent
    {point}.mean, {point}.spread       [d_model], float64: moments of the rows, massive ones apart
    {point}.massive    [row]           only where rows of massive norm are marked
    experts.{layer}, gates.{layer}     [row, k], what the MoE of a layer used
    probabilities.{layer}              [row, expert], the router's, when asked for

Each is described by a zarr.json beside its chunks, and the group by one with all attributes. That is all
a reader needs, so that reading waits neither for Zarr nor, before there are rows, for torch.

Rows stand in an order drawn at random from what they are, the same for every model: each chunk is a
sample of the whole shard, so that a few chunks mix many documents. Each chunk is written once; the
zip's own CRC-32 guards it, and the list of names guards against an absent one (which Zarr would
read as zeros).
"""

from __future__ import annotations

import json
import math
import os
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from moediff.activations.massive import LEFT_OUT, Found, merged
from moediff.activations.moments import Moments
from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError, unreadable

if TYPE_CHECKING:
    from torch import Tensor

PLACES = ("document", "sequence", "end", "domain")
MIXED_BY = ("document", "sequence", "domain")  # decide the order: equal whatever the tokenizers
TYPES: dict[str, type[np.integer]] = {
    "token": np.uint32, "document": np.int64, "group": np.int64, "sequence": np.int64,
    "position": np.int32, "domain": np.uint8, "start": np.uint32, "end": np.uint32,
}  # fmt: skip
COLUMNS = tuple(TYPES)
EXTERNAL = "rows"  # hook point of external activations
RECENT = 8  # such arrays that a process holds
MOST_OPEN = 64  # shards; a process may hold 256 files on some systems
Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Stored:
    """How the activations of one hook point are stored."""

    hook: str  # hook and layer, as "resid_post.2"
    width: int
    exponent: int
    most: float | None = None  # norm above which a row is massive


@dataclass(frozen=True)
class ArrayLayout:
    """How one array lies in the zip: raw, little-endian chunks, the last of an axis padded."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]  # shape of a chunk
    dtype: np.dtype

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> ArrayLayout:
        """From a Zarr v3 array's metadata. Raises ValueError where its chunks are not as we write them."""
        grid, (codec,) = described["chunk_grid"], described["codecs"]
        endian = codec.get("configuration", {}).get("endian", "little")  # a byte has none
        if (grid["name"], codec["name"], endian) != ("regular", "bytes", "little"):
            raise ValueError(f"chunks of grid {grid['name']}, coded by {codec['name']}, {endian}")
        shape, chunks = (
            tuple(s) for s in (described["shape"], grid["configuration"]["chunk_shape"])
        )
        return cls(shape, chunks, np.dtype(described["data_type"]))

    def keys(self, name: str) -> Iterator[str]:
        """Names inside the zip of the chunks of the array of that name, in order of its rows."""
        for number in range(-(-self.shape[0] // self.chunks[0])):
            yield array_key(name, number, len(self.shape))

    def parts(self) -> Iterator[str]:
        """Names inside the zip of what an array consists of."""
        yield "zarr.json"
        counts = (-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))
        for index in np.ndindex(*counts):
            yield f"c/{'/'.join(map(str, index))}"


def scale_exponent(rms: float, dtype: str) -> int:
    """Power of two that brings a hook point's root mean square near 1; exact in binary.

    float16 then holds values from 6e-8 to 65,504 times the typical size.
    """
    return 0 if dtype == "float32" or rms == 0 else -round(math.log2(rms))


def mixed_order(seed: str, count: int) -> np.ndarray:
    """Number, as captured, of the row at each place of a shard."""
    return np.random.default_rng(int(seed, 16)).permutation(count)


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
                members = {part.filename: part for part in archive.infolist()}
                count = len(archive.infolist())
                described = {
                    name: json.loads(archive.read(name))
                    for name in members
                    if name.endswith("zarr.json")
                }
            self.facts: dict[str, Any] = described["zarr.json"]["attributes"]
            artifact.check_format(self.path, self.facts)
            self.points: dict[str, dict[str, Any]] = self.facts["points"]
            self.count: int = self.facts["count"]
            self.arrays = {
                name: ArrayLayout.of(described[f"{name}/zarr.json"])
                for name in self.facts["arrays"]
            }
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a damaged zip or group raises a dozen unrelated classes
            raise unreadable(self.path, "not a whole activation shard", error) from error
        self._check_parts(set(members), count)
        # Of each chunk of an array its place, its bytes as stored (-1: compressed) and its checksum: a split
        # has a chunk for every thousand rows, and all that zipfile knows of one takes thirty times as much.
        self._chunks = {
            name: np.array([_told(members[key]) for key in array.keys(name)], np.int64)
            for name, array in self.arrays.items()
        }  # [chunk, 3]

    def _check_parts(self, names: set[str], count: int) -> None:
        """Every array that must be there, and every chunk of it, once, and nothing else."""
        needed = {*COLUMNS, *self.points}
        needed |= {f"{point}.{sums}" for point in self.points for sums in ("mean", "spread")}
        expected = {f"{name}/{p}" for name, array in self.arrays.items() for p in array.parts()}
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

    def _whole(self, name: str, array: ArrayLayout) -> np.ndarray:
        """An array of one chunk; the latest are held, since rows ask for them stretch by stretch."""
        kept = Shard._recent.pop((self, name), None)
        Shard._recent[self, name] = self._chunk(name, array, 0) if kept is None else kept
        while len(Shard._recent) > RECENT:
            Shard._recent.popitem(last=False)
        return Shard._recent[self, name]

    def _chunk(self, name: str, array: ArrayLayout, number: int) -> np.ndarray:
        """One chunk by one read of the file."""
        header, stored, checksum = self._chunks[name][number].tolist()
        content = np.empty(array.chunks, array.dtype)
        if stored != content.nbytes:
            raise DamagedError(self.path, f"array '{name}' is not as it was written")
        try:
            place = self._offset(header)
            size = os.preadv(self._handle(), [content.data.cast("B")], place)
        except (OSError, IndexError, OverflowError) as error:
            raise unreadable(self.path, f"array '{name}' is damaged", error) from error
        if size != content.nbytes or zlib.crc32(content.data.cast("B")) != checksum:
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

    def _offset(self, place: int) -> int:
        """Where a part's content begins: behind its local header, which has lengths of its own."""
        header = os.pread(self._handle(), 30, place)
        return place + 30 + header[26] + 256 * header[27] + header[28] + 256 * header[29]

    def __del__(self) -> None:
        self._close()

    def stored(self, point: str, start: int, stop: int) -> Tensor:
        """Activations [row, d_model] as they are stored, times 2^exponent."""
        import torch

        return torch.from_numpy(self.read(point, start, stop))

    def rows(self, start: int, stop: int, point: str | None = None) -> Tensor:
        """Activations in the model's own units, float32 [row, d_model]."""
        name = self.point(point)
        return restored(self.stored(name, start, stop), self.points[name]["exponent"])

    def massive(self, point: str) -> np.ndarray | None:
        """Rows of massive norm [row] at a hook point; None where none were marked."""
        name = f"{point}.massive"
        return self.read(name) if name in self.arrays else None

    def standing_out(self, point: str) -> Mapping[str, Any] | None:
        """What `massive.standing_out` found among the rows of a hook point that are not left out."""
        return self.facts.get("standing_out", {}).get(point)

    def moments(self, point: str) -> Moments:
        """Moments of the rows of a hook point, massive ones apart."""
        found = Moments(self.width(point))
        found.mean, found.spread = self.read(f"{point}.mean"), self.read(f"{point}.spread")
        found.count = self.count - self.facts["massive"].get(point, 0)
        return found


def _told(part: zipfile.ZipInfo) -> tuple[int, int, int]:
    """Where the header of a part is, its bytes (-1: compressed) and its checksum."""
    stored = part.compress_type == zipfile.ZIP_STORED
    return part.header_offset, part.file_size if stored else -1, part.CRC


def restored(stored: Tensor, exponent: int) -> Tensor:
    """Stored values in the model's own units, float32; exact."""
    values = stored.float()
    return values if exponent == 0 else values * 2.0**-exponent


def summary(paths: Sequence[Path | str]) -> dict[str, Any]:
    """What the shards of one model and split hold and what they leave out, from their attributes.

    `left_out` counts rows by reason, those of massive norm by hook point (they are stored, and left
    out when rows are read); `share_left_out` is of all tokens. Points have their total variance and
    the norm of their mean. Where rows stand out that are not left out, `standing_out` says which, by hook
    point, as `massive.merged` gives it. One shard after another is opened, so that their number is free.
    """
    rows, tokens = 0, 0
    left_out: Counter[str] = Counter()
    alignments = []
    first = Shard(paths[0])
    sums = {name: Moments(first.width(name)) for name in first.points}
    parts: dict[str, list[Found]] = {name: [] for name in first.points}
    for shard in map(Shard, paths):
        rows += shard.count
        tokens += shard.facts["tokens"]
        left_out.update(shard.facts["left_out"])
        left_out.update({f"{LEFT_OUT}{k}": v for k, v in shard.facts["massive"].items()})
        alignments.append(shard.facts["alignment"])
        for name in first.points:
            part = shard.moments(name)
            sums[name].merge(part.count, part.mean, part.spread)
            if found := shard.standing_out(name):
                parts[name].append(found)
    points, standing_out = {}, {}
    for name, stored in first.points.items():
        whole = sums[name]
        points[name] = stored | {
            "d_model": len(whole.mean),
            "total_variance": float(whole.spread.sum() / max(whole.count, 1)),
            "norm_of_mean": float(np.linalg.norm(whole.mean)),
        }
        if together := merged(parts[name], float(whole.spread.sum())):
            standing_out[name] = together
    return {
        "rows": rows,
        "tokens": tokens,
        "left_out": dict(left_out),
        "share_left_out": {name: count / tokens for name, count in left_out.items()},
        "alignment": _alignment(alignments),
        "points": points,
        "routed_layers": first.routed(),
        **({"standing_out": standing_out} if standing_out else {}),
    }


def _alignment(parts: Sequence[Mapping[str, int] | None]) -> dict[str, float] | None:
    """Shares over all shards, from the counts of each; None where one tokenizer reads all."""
    if not parts or parts[0] is None:
        return None
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total) | {
        "share_kept": total["kept"] / max(total["rows"], 1),
        "word_ends": total["word_ends"] / max(total["rows"], 1),
        "word_ends_kept": total["word_ends_kept"] / max(total["kept"], 1),
    }


def array_key(name: str, number: int, ndim: int) -> str:
    """Name of a chunk of an array that is cut along its first axis."""
    return f"{name}/c/{number}" + "/0" * (ndim - 1)
