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
from moediff.synthetic.firing import Law, codes

FIRST, SECOND = KINDS = ("first", "second")  # halves of the sources
COMMON = "common"  # neither kind's own
DOCUMENT = 50  # rows of a document that `stored` makes
CHUNK = 512  # rows of its chunks
PLAIN = Law()


@dataclass(frozen=True)
class Planted:
    """Rows of some sources and the features that made them."""

    rows: list[np.ndarray]  # of each source, [row, d_s]
    directions: (
        np.ndarray
    )  # [feature, D], as long as a source has it; zeros where it lacks the feature
    owner: np.ndarray  # [feature] of str: FIRST, SECOND or COMMON

    def parts(self) -> list[np.ndarray]:
        """Directions [feature, d_s] in each source."""
        ends = np.cumsum([rows.shape[1] for rows in self.rows])
        return np.split(self.directions, ends[:-1], axis=1)


def planted(
    rows: int,
    widths: tuple[int, ...],
    amounts: np.ndarray,
    active: int,
    seed: int,
    missed: float = 0.0,
    noise: float = 0.0,
    shared: bool = False,
    scales: Sequence[float] | None = None,
    law: Law = PLAIN,
    owner: np.ndarray | None = None,
) -> Planted:
    """Sources that have as much of each feature as `amounts` [feature, source] says: all at 1, none at 0.

    Each row is the sum of `active` features drawn at random, or as `law` says, each with an exponential
    strength; directions are random unit vectors, independent in each source unless `shared`, which needs
    equal widths. A source that has a drawn feature misses it with probability `missed`, on its own. `noise`
    is the standard deviation of what is added to every number; then the rows of each source are
    multiplied by its scale. `owner` [feature] says whose own a feature is; left out, it is that of the kind
    whose sources are those that have it. Raises UserError where widths do not allow a shared basis.
    """
    if shared and len(set(widths)) > 1:
        raise UserError(f"a shared basis needs sources of one width, not {widths}")
    random = np.random.default_rng(seed)
    features = len(amounts)
    parts = [random.normal(size=(features, width)) for width in widths]
    if shared:
        parts = [parts[0].copy() for _ in widths]
    for source, part in enumerate(parts):
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        part *= amounts[:, [source]]
    drawn = codes(rows, features, active, law, random)
    made = []
    for part, scale in zip(parts, scales or [1.0] * len(widths), strict=True):
        seen = drawn * (random.random(drawn.shape) >= missed) if missed else drawn
        found = (seen @ part).astype(np.float32)
        found += noise * random.standard_normal(found.shape, np.float32)
        made.append(scale * found)
    if owner is None:
        owner = owners(amounts)
    return Planted(made, np.concatenate(parts, axis=1), owner)


def first_half(sources: int) -> np.ndarray:
    """Which sources [S] are of the first kind."""
    return np.arange(sources) < sources / 2


def owners(amounts: np.ndarray) -> np.ndarray:
    """The kind [feature] whose sources are those that have a feature, of amounts [feature, source]."""
    has, half = amounts > 0, first_half(amounts.shape[1])
    return np.select([(has == half).all(1), (has == ~half).all(1)], KINDS, COMMON)


def owned(
    sources: int, everyone: int = 0, first: int = 0, second: int = 0, private: int = 0
) -> np.ndarray:
    """Owners [feature, source] of `everyone` features that all sources have, `first` of the first half of
    them alone, `second` of the other half, and `private` of one source each, source after source."""
    half = first_half(sources)
    kinds = [(np.ones(sources, bool), everyone), (half, first), (~half, second)]
    rows = [row for row, count in kinds for _ in range(count)]
    rows += [np.arange(sources) == number % sources for number in range(private)]
    return np.array(rows)


def graded(has: np.ndarray, strength: float | None, penetrance: float) -> np.ndarray:
    """Amounts [feature, source] of features that a kind alone has by `has` of bool, as of `owned`.

    The other kind explains one `strength`th as much by them (None: nothing), so has the inverse root of
    it. Of a kind's sources a share of `penetrance` has them, one at least, the first by turns; the others
    have what the other kind has. What every source has stays.
    """
    found = np.full(has.shape, strength**-0.5 if strength else 0.0)
    for number, row in enumerate(has):
        sources = np.flatnonzero(row)
        if len(sources) < len(row):
            sources = np.roll(sources, -number)[: max(1, round(penetrance * len(sources)))]
        found[number, sources] = 1
    return found


def varied(amounts: np.ndarray, variation: float, seed: int) -> np.ndarray:
    """Amounts [feature, source], each changed by chance: the logarithm of what it explains is normal about
    what it was, of standard deviation `variation`."""
    # Of a stream of its own, so that nothing else of a world is another.
    random = np.random.default_rng((seed, 1))
    return amounts * np.exp(variation / 2 * random.normal(size=amounts.shape))


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
