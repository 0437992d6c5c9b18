"""The rows of a split over one or several sources: proved aligned, read in order or shuffled.

Memory is set by the pool, whatever the number of rows: of each row one bit is held, of each
document its number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from moediff.activations.chunks import Chunk, Cutter, Selection
from moediff.activations.groups import Documents, Groups, documents, draw
from moediff.activations.moments import Moments
from moediff.activations.origins import origin, prove_aligned, refuse_two_origins
from moediff.activations.shards import Shard, restored
from moediff.activations.views import VIEWS
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.core.prefetch import prefetch

HALF = "half"  # a column of any split, beside those that are stored


class AlignedRows:
    """The rows of one or several sources over a split, proved to be the same tokens.

    A source is its shards, a hook point (None: the only one that they have) and a view of them
    (None: as they are; a control's name, of VIEWS). Rows of massive norm in any source are left out
    of all. Raises UserError when the sources' rows differ, or one source's shards are of two models.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Path | str]],
        points: Sequence[str | None] | None = None,
        views: Sequence[str | None] | None = None,
    ) -> None:
        opened: dict[tuple[str, str | None], Shard] = {}
        self.views = list(views or [None] * len(sources))
        self.sources: list[list[Shard]] = []
        for paths, view in zip(sources, self.views, strict=True):
            for path in map(str, paths):
                opened[path, view] = opened.get((path, view)) or VIEWS[view](path)
            self.sources.append([opened[str(path), view] for path in paths])
        first = self.sources[0]
        self.points = [
            shards[0].point(name)
            for shards, name in zip(self.sources, points or [None] * len(sources), strict=True)
        ]
        for shards, point in zip(self.sources, self.points, strict=True):
            refuse_two_origins(shards, point)
            for own, other in zip(first, shards, strict=True):
                prove_aligned(own, other)
        told = [s for s, shards in enumerate(self.sources) if shards[0].facts["groups_digest"]]
        self._grouped = told[0] if told else 0  # the source that knows the groups of the rows
        self.widths = [s[0].width(p) for s, p in zip(self.sources, self.points, strict=True)]
        self.domains = tuple(first[0].facts["domains"])
        self._exponents = [origin["exponent"] for origin in self.origins]
        self._massive = [self._find_massive(number) for number in range(len(first))]
        self.chunks = self._cut()
        self.count = sum(chunk.size for chunk in self.chunks)

    @classmethod
    def of(
        cls,
        paths: Sequence[Path | str],
        points: Sequence[str | None],
        views: Sequence[str | None] | None = None,
        **more: Any,
    ) -> Self:
        """From one list of shards, source after source, and hook point and view of each source."""
        each = len(paths) // len(points)
        parts = [paths[s * each : (s + 1) * each] for s in range(len(points))]
        return cls(parts, points, views, **more)

    def _find_massive(self, number: int) -> np.ndarray | None:
        """Rows of one shard that are massive in any source, as bits; None where there are none."""
        found = None
        for shards, point in zip(self.sources, self.points, strict=True):
            mask = shards[number].massive(point)
            if mask is not None and mask.any():
                found = mask if found is None else found | mask
        return None if found is None else np.packbits(found)

    def _cut(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        count = 0
        for index, shard in enumerate(self.sources[0]):
            for start in range(0, shard.count, shard.chunk_rows):
                stop = min(start + shard.chunk_rows, shard.count)
                left_out = self._left_out(index, start, stop)
                size = stop - start - (0 if left_out is None else int(left_out.sum()))
                chunks.append(Chunk(len(chunks), index, start, stop, count, size))
                count += size
        return chunks

    def _left_out(self, shard: int, start: int, stop: int) -> np.ndarray | None:
        bits = self._massive[shard]
        if bits is None:
            return None
        return np.unpackbits(bits, count=self.sources[0][shard].count)[start:stop].view(bool)

    # --- what they are ---

    @property
    def digest(self) -> str:
        """Digest of what the rows are: tokens and groups, models, and the values by their moments."""
        tokens = [shard.facts["tokens_digest"] for shard in self.sources[0]]
        groups = [shard.facts["groups_digest"] for shard in self.sources[self._grouped]]
        values = [
            shard.read(f"{point}.{name}")
            for shards, point in zip(self.sources, self.points, strict=True)
            for shard in shards
            for name in ("mean", "spread")
        ]
        most = [s[0].points[p]["most"] for s, p in zip(self.sources, self.points, strict=True)]
        return artifact.digest(tokens, groups, self.origins, most, *values)

    @property
    def origins(self) -> list[dict[str, Any]]:
        """Of each source, in order: digest of the model, hook point, exponent and dtype of its rows,
        and its view, if it is seen through one."""
        return [
            origin(shards[0], point)
            | {"dtype": str(shards[0].arrays[point].dtype)}
            | ({"view": view} if view else {})
            for shards, point, view in zip(self.sources, self.points, self.views, strict=True)
        ]

    def column(self, name: str, source: int = 0) -> np.ndarray:
        """What `column_of` gives, for every row of the split, in order; all of it in memory."""
        return np.concatenate([self.column_of(chunk, name, source) for chunk in self.chunks])

    def column_of(self, chunk: Chunk, name: str, source: int = 0) -> np.ndarray:
        """One of COLUMNS, or experts.3, gates.3 and the like of a source, for the rows of a chunk.

        HALF is 0 or 1, of two halves of the text that `groups.Groups` makes.
        """
        if name == HALF:
            return self.groups.half(*(self.column_of(chunk, n) for n in ("domain", "group")))
        source = self._grouped if name == "group" else source
        values = self.sources[source][chunk.shard].read(name, chunk.start, chunk.stop)
        left_out = self._left_out(chunk.shard, chunk.start, chunk.stop)
        return values if left_out is None else values[~left_out]

    def place(self, row: int) -> tuple[Shard, int]:
        """Shard, and place in it, of a row of the split."""
        if not 0 <= row < self.count:
            raise UserError(f"row {row}: the split has rows 0 to {self.count - 1}")
        last = max(c.number for c in self.chunks if c.first <= row)
        chunk = self.chunks[last]
        left_out = self._left_out(chunk.shard, chunk.start, chunk.stop)
        inside = row - chunk.first
        if left_out is not None:
            inside = int(np.flatnonzero(~left_out)[inside])
        return self.sources[0][chunk.shard], chunk.start + inside

    def moments(self) -> list[tuple[np.ndarray, float]]:
        """Mean [d_model] and total variance of each source, in float64, from the shards' sums."""
        found = []
        for source, (shards, point) in enumerate(zip(self.sources, self.points, strict=True)):
            sums = Moments(self.widths[source])
            for number, shard in enumerate(shards):
                part = shard.moments(point)
                sums.merge(part.count, part.mean, part.spread)
                for rows in self._massive_elsewhere(number, source):
                    sums.remove(rows)
            if not sums.spread.sum() > 0:
                raise UserError(
                    f"{shards[0].path.parent}: its rows never vary, so there is nothing to explain; "
                    "take another hook point or layer"
                )
            found.append((sums.mean, float(sums.spread.sum() / sums.count)))
        return found

    def _massive_elsewhere(self, number: int, source: int) -> Iterator[Tensor]:
        """Rows of a source that its moments count and another source's norm leaves out."""
        bits = self._massive[number]
        if bits is None:
            return
        shard, point = self.sources[source][number], self.points[source]
        wanted = np.unpackbits(bits, count=shard.count).view(bool)
        own = shard.massive(point)
        wanted = wanted if own is None else wanted & ~own
        for start in range(0, shard.count, shard.chunk_rows):
            mask = wanted[start : start + shard.chunk_rows]
            if mask.any():
                yield shard.rows(start, start + len(mask), point)[torch.from_numpy(mask)]

    # --- reading ---

    def _stored(self, chunk: Chunk) -> list[Tensor]:
        """Rows of a chunk as they are stored, one tensor [row, d_model] a source."""
        left_out = self._left_out(chunk.shard, chunk.start, chunk.stop)
        parts = [
            shards[chunk.shard].stored(point, chunk.start, chunk.stop)
            for shards, point in zip(self.sources, self.points, strict=True)
        ]
        if left_out is None:
            return parts
        kept = torch.from_numpy(np.flatnonzero(~left_out))
        return [part[kept] for part in parts]

    def _restored(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return [restored(part, e) for part, e in zip(parts, self._exponents, strict=True)]

    def read(self, chunk: Chunk) -> list[Tensor]:
        """Rows of a chunk in the models' units, one float32 tensor [row, d_model] a source."""
        return self._restored(self._stored(chunk))

    def in_order(self, batch: int) -> Iterator[list[Tensor]]:
        """All rows in order, in batches of `batch` rows whatever the chunks; the last is shorter."""
        cutter = self.cutter(batch)
        for chunk in self.chunks:
            yield from cutter.cut(self._stored(chunk))
        yield from cutter.rest()

    def column_in_order(self, name: str, batch: int, source: int = 0) -> Iterator[Tensor]:
        """What `column_of` gives, int64, in the batches of `in_order`."""
        cutter = Cutter(list, batch)
        for chunk in self.chunks:
            column = self.column_of(chunk, name, source).astype(np.int64)
            yield from (part for (part,) in cutter.cut([torch.from_numpy(column)]))
        yield from (part for (part,) in cutter.rest())

    def cutter(self, batch: int, skip: int = 0) -> Cutter:
        """Cuts pools of these rows into batches, the first `skip` rows left out."""
        return Cutter(self._restored, batch, skip)

    def shuffled(
        self, keep: Selection, batch: int, pool_chunks: int, seed: int, skip: int = 0
    ) -> Generator[list[Tensor], None, None]:
        """Endless batches of the rows of `keep`, each row once an epoch.

        Batch n is a function of the seed alone: the first `skip` batches are passed over without
        reading what lies before them.
        """
        cutter = self.cutter(batch)
        with closing(self.pools(keep, pool_chunks, seed, skip * batch)) as pools:
            for pool in pools:
                yield from cutter.cut(pool)

    def pools(
        self, keep: Selection, pool_chunks: int, seed: int, skip: int = 0
    ) -> Generator[list[Tensor], None, None]:
        """Endless pools of rows of `keep`, as they are stored, one tensor [row, d_model] a source.

        Each row comes once an epoch; a `cutter` makes batches in the models' units of them. Each
        epoch puts the chunks in a new order in which every shard has its share of any stretch,
        takes at most `pool_chunks` at a time, and permutes rows inside the pool; the next pool is
        read in the background while one is used. The first `skip` rows of the stream are left out.
        """
        return prefetch(self._pools(keep, pool_chunks, seed, skip))

    def _pools(
        self, keep: Selection, pool_chunks: int, seed: int, skip: int
    ) -> Iterator[list[Tensor]]:
        epoch, offset = divmod(skip, keep.count)
        while True:
            chunks = self._order(np.random.default_rng([seed, epoch]))
            parts = -(-len(chunks) // pool_chunks)
            for number, chosen in enumerate(np.array_split(chunks, parts)):
                size = sum(keep.counts[i] for i in chosen)
                if offset >= size:
                    offset -= size
                    continue
                order = np.random.default_rng([seed, epoch, number]).permutation(size)
                rows = self._pool([self.chunks[i] for i in chosen], keep, order)
                yield [part[offset:] for part in rows]
                offset = 0
            epoch += 1

    def _order(self, random: np.random.Generator) -> np.ndarray:
        """Chunk numbers; those of a shard are random among themselves and evenly spread."""
        places = np.empty(len(self.chunks))
        shards = np.array([chunk.shard for chunk in self.chunks])
        for shard in range(len(self.sources[0])):
            own = np.flatnonzero(shards == shard)
            places[own] = (random.permutation(len(own)) + random.random()) / len(own)
        return np.argsort(places, kind="stable")

    def _pool(self, chunks: Sequence[Chunk], keep: Selection, order: np.ndarray) -> list[Tensor]:
        """The rows of `keep` in chunks, as they are stored, in an order: the number of each row."""
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        pool: list[Tensor] = []
        done = 0
        for chunk in chunks:
            rows = self._chosen(chunk, keep)
            here = places[done : done + len(rows[0])]
            pool = pool or [part.new_empty(len(order), part.shape[1]) for part in rows]
            for table, part in zip(pool, rows, strict=True):
                # By numpy: torch would start threads beside those of the step under way.
                table.numpy()[here] = part.numpy()
            done += len(here)
        return pool

    def _chosen(self, chunk: Chunk, keep: Selection) -> list[Tensor]:
        """The rows of `keep` in a chunk, as they are stored."""
        rows = self._stored(chunk)
        if keep.counts[chunk.number] == chunk.size:
            return rows
        wanted = torch.from_numpy(np.flatnonzero(keep.of(chunk.number)))
        return [part[wanted] for part in rows]

    # --- choosing ---

    def every(self) -> Selection:
        """All rows."""
        return self.select(lambda chunk: np.ones(chunk.size, bool))

    def select(self, wanted: Callable[[Chunk], np.ndarray]) -> Selection:
        """The rows where a mask [row], given for each chunk, holds."""
        bits = [np.packbits(wanted(chunk)) for chunk in self.chunks]
        return Selection([chunk.size for chunk in self.chunks], bits)

    def selected(self, keep: Selection, batch: int) -> Iterator[list[Tensor]]:
        """The rows of `keep`, in order, in batches of at most `batch` rows."""
        for chunk in self.chunks:
            if keep.counts[chunk.number]:
                rows = self._restored(self._chosen(chunk, keep))
                for start in range(0, len(rows[0]), batch):
                    yield [part[start : start + batch] for part in rows]

    def held_out(self, rows: int, seed: int) -> Selection:
        """The rows of whole groups of documents, drawn at random, at least `rows` rows together.

        Each domain gives its share of the rows: documents of some domains are a hundred times
        longer than of others. A group much larger than what is wanted is cut between documents.
        Raises UserError when most rows of a domain would be taken.
        """
        known, total = self._documents, int(self._documents.rows.sum())
        chosen = [np.empty(0, np.int64) for _ in self.domains]
        for index in np.unique(known.domain):
            chosen[index] = draw(known.of(index), rows, total, [seed, int(index)])

        def mask(chunk: Chunk) -> np.ndarray:
            domains = self.column_of(chunk, "domain")
            documents = self.column_of(chunk, "document")
            found = np.zeros(chunk.size, bool)
            for index, names in enumerate(chosen):
                found |= (domains == index) & np.isin(documents, names)
            return found

        return self.select(mask)

    @cached_property
    def _documents(self) -> Documents:
        def columns(shard: int) -> tuple[np.ndarray, ...]:
            own = [chunk for chunk in self.chunks if chunk.shard == shard]
            return tuple(
                np.concatenate([self.column_of(chunk, name) for chunk in own])
                for name in ("domain", "group", "document")
            )

        return documents(columns(number) for number in range(len(self.sources[0])))

    @cached_property
    def groups(self) -> Groups:
        """The groups of all rows, and their halves."""
        return Groups(self._documents)
