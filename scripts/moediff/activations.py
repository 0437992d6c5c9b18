"""Activation shards: write, verify, read, shuffle.

A shard is one Zarr v3 group in one zip file: the rows [row, d_model] of a hook point, and for each
row its token, document, sequence, position and domain. Each chunk is written once; the zip's own
CRC-32 guards every chunk, and the list of names guards against an absent one (which Zarr would
read as zeros).
"""

from __future__ import annotations

import math
import zipfile
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.storage import ZipStore

from moediff import artifact
from moediff.ahead import ahead
from moediff.errors import DamagedError, UserError, unreadable
from moediff.tokens import TokenShard, segment_starts

COLUMNS = ("token", "document", "sequence", "position", "domain")
ROWS, MEAN, SPREAD = "rows", "mean", "spread"
FOREIGN = "rows"  # hook of rows that other code wrote
MOST_OPEN = 64  # shards; a process may hold 256 files on some systems


# --- which rows -------------------------------------------------------------------------------


def kept_rows(
    shard: TokenShard, special: Sequence[int], drop: Mapping[str, bool], across_documents: bool
) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, int]]:
    """Columns of the rows to store, their mask [sequence, position], and rows left out by reason.

    Padding is a special token. A sequence start is the first position that attention sees: of the
    sequence, and, when attention does not cross documents, of each document in it.
    """
    starts = segment_starts(shard.document, across_documents)
    is_special = np.isin(shard.tokens, special) & drop["special_tokens"]
    is_start = starts & drop["sequence_start"]
    keep = ~(is_special | is_start)
    sequence, _ = np.nonzero(keep)
    columns = {
        "token": shard.tokens[keep].astype(np.uint32),
        "document": shard.document[keep],
        "sequence": sequence.astype(np.int64) + shard.first,
        "position": np.nonzero(keep)[1].astype(np.int32),
        "domain": shard.domain[keep],
    }
    left_out = {
        "special_tokens": int(is_special.sum()),
        "sequence_start": int((is_start & ~is_special).sum()),
    }
    return columns, keep, left_out


def rows_digest(columns: Mapping[str, np.ndarray]) -> str:
    """What two models' shards must share for their rows to be the same tokens in the same places."""
    return artifact.digest(*(columns[name] for name in COLUMNS))


# --- writing ----------------------------------------------------------------------------------


def scale_exponent(rms: float, dtype: str) -> int:
    """Power of two that brings a hook point's root mean square near 1; exact in binary.

    float16 then holds values from 6e-8 to 65,504 times the typical size.
    """
    return 0 if dtype == "float32" or rms == 0 else -round(math.log2(rms))


class _Sums:
    """Mean and sum of squared deviations [d_model] of rows, streamed in float64 (Chan et al. 1983)."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)
        self.spread = np.zeros(width)

    def add(self, rows: np.ndarray) -> None:
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        self.merge(len(rows), mean, ((rows - mean) ** 2).sum(0))

    def merge(self, count: int, mean: np.ndarray, spread: np.ndarray) -> None:
        total = self.count + count
        shift = mean - self.mean
        self.spread = self.spread + spread + shift**2 * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total


def write_shard(
    path: Path | str,
    blocks: Iterator[np.ndarray],
    columns: Mapping[str, np.ndarray],
    width: int,
    dtype: str,
    exponent: int,
    chunk_rows: int,
    facts: Mapping[str, Any],
    origin: Path | str | None = None,
) -> None:
    """Write one shard from `blocks` of float32 rows [row, d_model], in order.

    Raises UserError at a value that is not finite or does not fit `dtype`, naming the document and
    the file `origin` that the rows come from (`path` when there is none).
    """
    count = len(columns["token"])
    if not count:
        raise UserError(f"{path}: every row of its token shard is left out")
    with artifact.whole(path) as partial:
        store = ZipStore(partial, mode="w")
        group = zarr.create_group(
            store,
            attributes={
                **facts, "rows_digest": rows_digest(columns), "exponent": exponent, "count": count,
            },
        )  # fmt: skip
        for name in COLUMNS:
            _create(group, name, (count,), (count,), columns[name].dtype)[:] = columns[name]
        rows = _create(group, ROWS, (count, width), (min(chunk_rows, count), width), dtype)
        sums, done = _Sums(width), 0
        for chunk in _rechunk(blocks, min(chunk_rows, count)):
            stored = _narrow(chunk, dtype, exponent, columns["document"][done:], origin or path)
            rows[done : done + len(stored)] = stored
            sums.add(np.ldexp(stored.astype(np.float64), -exponent))
            done += len(stored)
        if done != count:
            raise UserError(f"{path}: {done} rows were captured, {count} were expected")
        _create(group, MEAN, (width,), (width,), "float64")[:] = sums.mean
        _create(group, SPREAD, (width,), (width,), "float64")[:] = sums.spread
        store.close()


def _create(group: zarr.Group, name: str, shape: tuple, chunks: tuple, dtype: Any) -> zarr.Array:
    # Uncompressed: half-precision activations shrink by 6 % and read at half the speed.
    return group.create_array(
        name, shape=shape, chunks=chunks, dtype=dtype, compressors=None, fill_value=0,
        config={"write_empty_chunks": True},
    )  # fmt: skip


def _rechunk(blocks: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same rows in arrays of `size` rows, the last one shorter."""
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        while count >= size:
            joined = np.concatenate(held)
            yield joined[:size]
            held, count = [joined[size:]], count - size
    if count:
        yield np.concatenate(held)


def _narrow(
    rows: np.ndarray, dtype: str, exponent: int, documents: np.ndarray, path: Path | str
) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = np.ldexp(rows, exponent).astype(dtype)
    wrong = ~np.isfinite(stored).all(1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        finite = np.isfinite(rows[row]).all()
        problem = f"overflows {dtype}" if finite else "is not a finite number"
        raise UserError(
            f"{path}: an activation of document {documents[row]:015x} {problem}; "
            + ("set activations.dtype to float32" if finite else "the model is broken there")
        )
    return stored


# --- reading ----------------------------------------------------------------------------------


class Shard:
    """One activation shard, verified when opened: whole, with every chunk there once.

    At most MOST_OPEN shards hold their file open; the one longest unread is closed for another and
    opens again when it is read.
    """

    _open: ClassVar[OrderedDict[Shard, None]] = OrderedDict()  # the latest read last

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such activation shard")
        try:
            with zipfile.ZipFile(self.path) as archive:
                names = archive.namelist()
            self.store = ZipStore(self.path, mode="r")
            self._touch()
            group = zarr.open_group(self.store, mode="r")
            self.facts = dict(group.attrs)
            self.arrays = {name: group[name] for name in (*COLUMNS, ROWS, MEAN, SPREAD)}
            artifact.check_format(self.path, self.facts)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a damaged zip or group raises a dozen unrelated classes
            raise unreadable(self.path, "not a whole activation shard", error) from error
        expected = {
            f"{name}/c/{'/'.join(map(str, index))}"
            for name, array in self.arrays.items()
            for index in np.ndindex(array.cdata_shape)
        } | {"zarr.json", *(f"{name}/zarr.json" for name in self.arrays)}
        if set(names) != expected or len(names) != len(expected):
            odd = sorted(set(names) ^ expected) or ["a name that stands twice"]
            raise DamagedError(self.path, f"its parts are not those written ({odd[0]})")

    def _touch(self) -> None:
        Shard._open[self] = None
        Shard._open.move_to_end(self)
        while len(Shard._open) > MOST_OPEN:
            Shard._open.popitem(last=False)[0].store.close()

    @property
    def count(self) -> int:
        return self.arrays[ROWS].shape[0]

    @property
    def width(self) -> int:
        return self.arrays[ROWS].shape[1]

    @property
    def chunk_rows(self) -> int:
        return self.arrays[ROWS].chunks[0]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Stored values of one array. Raises DamagedError at a chunk whose checksum is wrong."""
        self._touch()
        try:
            return self.arrays[name][start:stop]
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise unreadable(self.path, f"array '{name}' is damaged", error) from error

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Activations in the model's own units, float32 [row, d_model]."""
        stored = self.read(ROWS, start, stop)
        return np.ldexp(stored.astype(np.float32), -self.facts["exponent"])


@dataclass(frozen=True)
class Chunk:
    """A stretch of rows that is read at once: of one shard, numbered `first`.. in the split."""

    shard: int
    start: int
    stop: int
    first: int


_ORIGIN = ("model", "hook", "exponent")


def _prove_aligned(own: Shard, other: Shard) -> None:
    """Raise UserError unless two shards' rows are the same tokens in the same places and domains."""
    domains, others = own.facts["domains"], other.facts["domains"]
    if own.facts["rows_digest"] != other.facts["rows_digest"]:
        odd = f"hold different tokens ({_first_difference(own, other)})"
    elif domains != others:
        odd = f"name their domains differently ({', '.join(domains)} and {', '.join(others)})"
    else:
        return
    foreign = FOREIGN in (own.facts["hook"], other.facts["hook"])
    advice = (
        "write both from the same rows in the same order"
        if foreign
        else "remove both and run the same snakemake command again"
    )
    raise UserError(
        f"{own.path} and {other.path} {odd}, so their rows cannot be compared; {advice}"
    )


def _first_difference(own: Shard, other: Shard) -> str:
    if own.count != other.count:
        return f"{own.count} rows and {other.count}"
    for name in COLUMNS:
        values, others = own.read(name), other.read(name)
        differs = values != others
        if differs.any():
            row = int(differs.argmax())
            return f"{name} of row {row}: {values[row]} and {others[row]}"
    return "columns of different types"


class AlignedRows:
    """The rows of one or several sources over a split, proved to be the same tokens.

    Raises UserError when the sources' rows differ, or one source's shards are of two models.
    """

    def __init__(self, sources: Sequence[Sequence[Path | str]]) -> None:
        self.sources = [[Shard(path) for path in paths] for paths in sources]
        first = self.sources[0]
        for shards in self.sources:
            if len({tuple(s.facts[name] for name in _ORIGIN) for s in shards}) > 1:
                raise UserError(
                    f"{shards[0].path.parent}: its shards come from two models or hook points; "
                    f"to rebuild them, run: rm -r '{shards[0].path.parent}' and then the same "
                    "snakemake command again"
                )
            for own, other in zip(first, shards, strict=True):
                _prove_aligned(own, other)
        self.widths = [shards[0].width for shards in self.sources]
        self.domains = tuple(first[0].facts["domains"])
        self.chunks: list[Chunk] = []
        count = 0
        for index, shard in enumerate(first):
            for start in range(0, shard.count, shard.chunk_rows):
                stop = min(start + shard.chunk_rows, shard.count)
                self.chunks.append(Chunk(index, start, stop, count + start))
            count += shard.count
        self.count = count

    @classmethod
    def of(cls, paths: Sequence[Path | str], sources: int) -> AlignedRows:
        """From one list of shards, source after source."""
        each = len(paths) // sources
        return cls([paths[s * each : (s + 1) * each] for s in range(sources)])

    @property
    def digest(self) -> str:
        """Digest of what the rows are: their tokens, their models, and the values by their moments."""
        tokens = [shard.facts["rows_digest"] for shard in self.sources[0]]
        values = [
            shard.read(name)
            for shards in self.sources
            for shard in shards
            for name in (MEAN, SPREAD)
        ]
        return artifact.digest(tokens, self.origins, *values)

    @property
    def origins(self) -> list[dict[str, Any]]:
        """Of each source, in order: digest of the model, hook point, exponent and dtype of its rows."""
        return [
            {name: shards[0].facts[name] for name in _ORIGIN}
            | {"dtype": str(shards[0].arrays[ROWS].dtype)}
            for shards in self.sources
        ]

    def column(self, name: str) -> np.ndarray:
        """One of COLUMNS for every row of the split."""
        return np.concatenate([shard.read(name) for shard in self.sources[0]])

    def read(self, chunk: Chunk) -> list[np.ndarray]:
        """Rows of a chunk, one float32 array [row, d_model] a source."""
        return [shards[chunk.shard].rows(chunk.start, chunk.stop) for shards in self.sources]

    def moments(self) -> list[tuple[np.ndarray, float]]:
        """Mean [d_model] and total variance of each source, in float64, from the shards' sums."""
        found = []
        for shards in self.sources:
            sums = _Sums(shards[0].width)
            for shard in shards:
                sums.merge(shard.count, shard.read(MEAN), shard.read(SPREAD))
            if not sums.spread.sum() > 0:
                raise UserError(
                    f"{shards[0].path.parent}: its rows never vary, so there is nothing to explain; "
                    "take another hook point or layer"
                )
            found.append((sums.mean, float(sums.spread.sum() / sums.count)))
        return found

    def in_order(self, batch: int) -> Iterator[list[Tensor]]:
        """All rows in order, in batches of `batch` rows whatever the chunks; the last is shorter."""
        pool: list[np.ndarray] = [np.empty((0, width), np.float32) for width in self.widths]
        for chunk in self.chunks:
            pool = [np.concatenate(pair) for pair in zip(pool, self.read(chunk), strict=True)]
            whole = len(pool[0]) // batch * batch
            for start in range(0, whole, batch):
                yield [torch.from_numpy(rows[start : start + batch]) for rows in pool]
            pool = [rows[whole:] for rows in pool]
        if len(pool[0]):
            yield [torch.from_numpy(rows) for rows in pool]

    def shuffled(
        self, keep: np.ndarray, batch: int, pool_chunks: int, seed: int, skip: int = 0
    ) -> Generator[list[Tensor], None, None]:
        """Endless batches of the rows where `keep`, each row once an epoch.

        Batch n is a function of the seed alone: the first `skip` batches are passed over without
        reading what lies before them.
        """
        cutter = Cutter(self.widths, batch)
        with closing(self.pools(keep, pool_chunks, seed, skip * batch)) as pools:
            for pool in pools:
                yield from cutter.cut(pool)

    def pools(
        self, keep: np.ndarray, pool_chunks: int, seed: int, skip: int = 0
    ) -> Generator[list[np.ndarray], None, None]:
        """Endless pools of rows where `keep`, one array [row, d_model] a source; each row once an epoch.

        Chunks come in an order permuted anew each epoch, `pool_chunks` at a time, and rows are
        permuted inside the pool; the next pool is read in the background while one is used. The
        first `skip` rows of the stream are left out.
        """
        return ahead(self._pools(keep, pool_chunks, seed, skip))

    def _pools(
        self, keep: np.ndarray, pool_chunks: int, seed: int, skip: int
    ) -> Iterator[list[np.ndarray]]:
        """Endless pools of permuted rows, the first `skip` rows left out."""
        epoch, offset = divmod(skip, int(keep.sum()))
        while True:
            order = np.random.default_rng([seed, epoch]).permutation(len(self.chunks))
            for number, first in enumerate(range(0, len(order), pool_chunks)):
                chunks = [self.chunks[i] for i in order[first : first + pool_chunks]]
                size = sum(int(keep[c.first : c.first + c.stop - c.start].sum()) for c in chunks)
                if offset >= size:
                    offset -= size
                    continue
                mixed = np.random.default_rng([seed, epoch, number]).permutation(size)[offset:]
                offset = 0
                yield [rows[mixed] for rows in self._pool(chunks, keep)]
            epoch += 1

    def _pool(self, chunks: list[Chunk], keep: np.ndarray) -> list[np.ndarray]:
        parts = []
        for chunk in chunks:
            wanted = keep[chunk.first : chunk.first + chunk.stop - chunk.start]
            parts.append([rows[wanted] for rows in self.read(chunk)])
        return [np.concatenate(source) for source in zip(*parts, strict=True)]

    def selected(self, keep: np.ndarray, batch: int) -> Iterator[list[Tensor]]:
        """The rows where `keep`, in order, in batches of at most `batch` rows."""
        for chunk in self.chunks:
            wanted = keep[chunk.first : chunk.first + chunk.stop - chunk.start]
            if wanted.any():
                rows = [torch.from_numpy(part[wanted]) for part in self.read(chunk)]
                for start in range(0, int(wanted.sum()), batch):
                    yield [part[start : start + batch] for part in rows]


class Cutter:
    """Cuts a stream of pools into batches, at multiples of the batch whatever the pools."""

    def __init__(self, widths: Sequence[int], batch: int, skip: int = 0) -> None:
        """`skip` rows of the stream are left out."""
        self.batch, self.skip = batch, skip
        self.held = [np.empty((0, width), np.float32) for width in widths]

    def cut(self, pool: Sequence[np.ndarray]) -> Iterator[list[Tensor]]:
        """The batches, one tensor [row, d_model] a source, that are whole with this pool."""
        skip = min(self.skip, len(pool[0]))
        self.skip -= skip
        rows = [np.concatenate([old, new[skip:]]) for old, new in zip(self.held, pool, strict=True)]
        whole = len(rows[0]) // self.batch * self.batch
        self.held = [part[whole:] for part in rows]
        for start in range(0, whole, self.batch):
            yield [torch.from_numpy(part[start : start + self.batch]) for part in rows]


def held_out_documents(
    document: np.ndarray, domain: np.ndarray, rows: int, seed: int
) -> np.ndarray:
    """Mask of the rows of whole documents, drawn at random, at least `rows` rows together.

    `document` and `domain` [row] are ids. Each domain gives its share of the rows: documents of
    some domains are a hundred times longer than of others. Raises UserError when most rows of a
    domain would be taken.
    """
    mask = np.zeros(len(document), bool)
    for index in np.unique(domain):
        inside = domain == index
        names, inverse, counts = np.unique(
            document[inside], return_inverse=True, return_counts=True
        )
        order = np.random.default_rng([seed, int(index)]).permutation(len(names))
        wanted = -(-rows * int(inside.sum()) // len(document))
        enough = int(np.searchsorted(np.cumsum(counts[order]), wanted)) + 1
        chosen = np.zeros(len(names), bool)
        chosen[order[:enough]] = True
        if chosen[inverse].mean() > 0.75:
            raise UserError(
                f"the fit split has {int(inside.sum())} rows in {len(names)} documents of one "
                f"domain: too few to keep {wanted} out for the threshold; raise "
                "corpus.tokens.fit or lower threshold_rows"
            )
        mask[inside] = chosen[inverse]
    return mask
