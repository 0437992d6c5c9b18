"""The rows of each half of the text by token id: on disk, and read in parts that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from moediff.activations.rows import HALF, AlignedRows
from moediff.core.scratch import Records, Rows
from moediff.dictionaries.dictionary import Dictionary
from moediff.experts.firings import Firings, Part, cuts, firings
from moediff.experts.information import CELLS

READ = 1 << 16  # rows at once


class Strata:
    """The rows of a half whose token id occurs twice or more in it, in parts of whole ids.

    A part is as many ids as `firing_blocks` takes at once. On disk are 4 bytes a firing and, of a row,
    8 and 4 for each expert that it used.
    """

    def __init__(self, features: int, layers: Sequence[int], scratch: Path | str | None) -> None:
        self.features = features
        self.fired = np.zeros(features, np.int64)  # rows on which each fires, of any token id [F]
        self._rows = np.zeros(0, np.int64)  # of each token id
        self._firings = np.zeros(0, np.int64)
        names = ("token", "size", "feature", *map(str, layers))
        self._parts = {
            name: Records(scratch) for name in names
        }  # stretch after stretch, of each part
        self._part = np.zeros(0, np.int64)  # of each token id; past the last: of none
        self.count = 0  # parts

    def add(self, tokens: np.ndarray, fired: Firings) -> None:
        """Count rows, before they are put by token id."""
        most = int(tokens.max(initial=-1)) + 1
        self._rows = _sum(self._rows, np.bincount(tokens, minlength=most))
        self._firings = _sum(self._firings, np.bincount(tokens, fired.sizes, most).astype(np.int64))
        self.fired += fired.fired()

    def divide(self) -> None:
        """Tell, when all rows are counted, which part each token id is of."""
        again = np.flatnonzero(self._rows > 1)
        sizes = np.maximum(self._rows, self._firings)[again]
        stretches = list(cuts(sizes, CELLS))
        self.count = len(stretches)
        self._part = np.full(len(self._rows), self.count)
        for number, (first, last) in enumerate(stretches):
            self._part[again[first:last]] = number

    def put(self, tokens: np.ndarray, fired: Firings, experts: dict[int, np.ndarray]) -> None:
        """Rows that follow on those before, with the experts [row, k] of each layer."""
        part = self._part[tokens]
        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part, minlength=self.count + 1))
        for number in range(self.count):
            rows = order[ends[number - 1] if number else 0 : ends[number]]
            own = fired.take(rows)
            self._parts["token"].append(tokens[rows].astype(np.int32))
            self._parts["size"].append(own.sizes.astype(np.int32))
            self._parts["feature"].append(own.features)
            for layer, chosen in experts.items():
                self._parts[str(layer)].append(chosen[rows].astype(np.int32))

    def of(self, layer: int) -> Iterator[Part]:
        """The parts, with the experts of a layer."""
        for number in range(self.count):
            token, size, feature, experts = (
                self._whole(number, name) for name in ("token", "size", "feature", str(layer))
            )
            fired = Firings.of_sizes(feature, size, self.features)
            yield Part(fired, token, experts.reshape(len(token), -1))

    def _whole(self, number: int, name: str) -> np.ndarray:
        """A column of a part, from all stretches."""
        records = self._parts[name]
        found = [records[place] for place in range(number, len(records), self.count)]
        return np.frombuffer(b"".join(found), np.int32)


def strata_of_halves(
    dictionary: Dictionary,
    data: AlignedRows,
    source: int,
    layers: Sequence[int],
    batch: int,
    device: torch.device,
    scratch: Path | str | None = None,
) -> tuple[list[Strata], dict[int, int]]:
    """What a dictionary fires beside the token ids and experts of a source, by half of the text.

    With it the number of experts that are seen in each layer. Files under `scratch` hold twice what
    `Strata` says.
    """
    features, first = dictionary.shape.features, data.chunks[0]
    halves = [Strata(features, layers, scratch) for _ in range(2)]
    columns = {"token": (), HALF: ()}
    for layer in layers:
        columns[f"experts.{layer}"] = data.column_of(first, f"experts.{layer}", source).shape[1:]
    kept = {name: Rows(np.int32, shape, scratch) for name, shape in columns.items()}
    sizes, fires = Rows(np.int32, (), scratch), Rows(np.int32, (), scratch)
    parts = [data.column_in_order(name, batch, source) for name in columns]
    experts = dict.fromkeys(layers, 0)
    for fired, *read in zip(firings(dictionary, data, batch, device), *parts, strict=True):
        values = {name: part.numpy() for name, part in zip(columns, read, strict=True)}
        sizes.append(fired.sizes)
        fires.append(fired.features)
        for name, part in values.items():
            kept[name].append(part)
        for layer in layers:
            experts[layer] = max(experts[layer], int(values[f"experts.{layer}"].max()) + 1)
        for number, half in enumerate(halves):
            own = np.flatnonzero(values[HALF] == number)
            half.add(values["token"][own], fired.take(own))
    for half in halves:
        half.divide()
    for rows, fired in _stretches(sizes, fires, features):
        values = {name: part[rows] for name, part in kept.items()}
        for number, half in enumerate(halves):
            own = np.flatnonzero(values[HALF] == number)
            chosen = {layer: values[f"experts.{layer}"][own] for layer in layers}
            half.put(values["token"][own], fired.take(own), chosen)
    return halves, experts


def _stretches(sizes: Rows, features: Rows, count: int) -> Iterator[tuple[slice, Firings]]:
    """Rows, and what they fire, as many at once as memory has room for."""
    done = 0
    for start in range(0, len(sizes), READ):
        each = sizes[start : start + READ]
        for first, last in cuts(each, CELLS):
            own = each[first:last]
            fired = features[done : done + int(own.sum())]
            done += len(fired)
            yield slice(start + first, start + last), Firings.of_sizes(fired, own, count)


def _sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The sum of counts by token id, of which either may end first."""
    found = np.zeros(max(len(one), len(other)), np.int64)
    found[: len(one)] += one
    found[: len(other)] += other
    return found
