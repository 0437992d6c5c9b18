"""Worlds with known truth: rows of several sources made from features whose owners are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from moediff.activations.shard_writer import ShardWriter
from moediff.activations.shards import Stored
from moediff.config.layout import SHARD
from moediff.core import artifact
from moediff.core.errors import UserError

DOCUMENT = 50  # rows of a document that `stored` makes
CHUNK = 512  # rows of its chunks


@dataclass(frozen=True)
class Planted:
    """Rows of some sources and the features that made them."""

    rows: list[np.ndarray]  # of each source, [row, d_s]
    directions: np.ndarray  # [feature, D], zeros in a source that lacks the feature
    owners: np.ndarray  # [feature, source] of bool

    def parts(self) -> list[np.ndarray]:
        """Directions [feature, d_s] in each source."""
        ends = np.cumsum([rows.shape[1] for rows in self.rows])
        return np.split(self.directions, ends[:-1], axis=1)

    def of(self, sources: Sequence[int]) -> Planted:
        """The same world seen by some of its sources."""
        parts = self.parts()
        return Planted(
            [self.rows[s] for s in sources],
            np.concatenate([parts[s] for s in sources], axis=1),
            self.owners[:, list(sources)],
        )


def planted(
    rows: int,
    widths: tuple[int, ...],
    owners: np.ndarray,
    active: int,
    seed: int,
    missed: float = 0.0,
    noise: float = 0.0,
    shared: bool = False,
    scales: Sequence[float] | None = None,
) -> Planted:
    """Sources that have the features `owners` [feature, source] says.

    Each row is the sum of `active` features drawn at random, each with an exponential strength;
    directions are random unit vectors, independent in each source unless `shared`, which needs equal
    widths. A source that has a drawn feature misses it with probability `missed`, on its own. `noise`
    is the standard deviation of what is added to every number; then the rows of each source are
    multiplied by its scale. Raises UserError where widths do not allow a shared basis.
    """
    if shared and len(set(widths)) > 1:
        raise UserError(f"a shared basis needs sources of one width, not {widths}")
    random = np.random.default_rng(seed)
    features = len(owners)
    parts = [random.normal(size=(features, width)) for width in widths]
    if shared:
        parts = [parts[0].copy() for _ in widths]
    for source, part in enumerate(parts):
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        part[~owners[:, source]] = 0
    chosen = np.argpartition(random.random((rows, features)), active, axis=1)[:, :active]
    codes = np.zeros((rows, features), np.float32)
    np.put_along_axis(codes, chosen, random.exponential(size=(rows, active)) + 0.1, axis=1)
    made = []
    for part, scale in zip(parts, scales or [1.0] * len(widths), strict=True):
        seen = codes * (random.random(codes.shape) >= missed) if missed else codes
        found = (seen @ part).astype(np.float32)
        found += noise * random.standard_normal(found.shape, np.float32)
        made.append(scale * found)
    return Planted(made, np.concatenate(parts, axis=1), owners)


def owned(
    sources: int, everyone: int = 0, first: int = 0, second: int = 0, private: int = 0
) -> np.ndarray:
    """Owners [feature, source] of `everyone` features that all sources have, `first` of the first half of
    them alone, `second` of the other half, and `private` of one source each, source after source."""
    half = np.arange(sources) < sources / 2
    kinds = [(np.ones(sources, bool), everyone), (half, first), (~half, second)]
    rows = [row for row, count in kinds for _ in range(count)]
    rows += [np.arange(sources) == number % sources for number in range(private)]
    return np.array(rows)


def stored(rows: Sequence[np.ndarray], folder: Path) -> list[list[Path]]:
    """Write rows [row, d_s] of each source as one shard, for `AlignedRows`; documents are stretches."""
    row = np.arange(len(rows[0]))
    document, position = row // DOCUMENT, row % DOCUMENT
    columns = {
        "token": np.zeros_like(row), "document": document, "group": document,
        "sequence": document, "position": position, "domain": np.zeros_like(row), "start": position,
        "end": position + 1,
    }  # fmt: skip
    paths = []
    for source, part in enumerate(rows):
        path = folder / f"{source}{SHARD}"
        points = {"planted": Stored("planted.0", part.shape[1], 0)}
        writer = ShardWriter(path, columns, points, "float32", CHUNK)
        writer.add({"planted": torch.from_numpy(np.ascontiguousarray(part, np.float32))})
        facts = {"model": f"planted-{source}", "domains": ["planted"], "tokens": 1, "left_out": {},
                 "alignment": None, "tokenizer": None}  # fmt: skip
        writer.write(artifact.made_by("activations") | facts)
        paths.append([path])
    return paths
