"""A planted world on disk, and dictionaries of its sources, each fitted once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moediff.activations.rows import AlignedRows
from moediff.analysis.evaluation import coded
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.fitting import fit
from moediff.synthetic.planted import Planted, stored

BATCH = 4096  # rows read at once
CPU = torch.device("cpu")  # worlds are small
Sources = tuple[int, ...]


class World:
    """Planted rows cut into fit and validation, and dictionaries over any of the sources."""

    def __init__(
        self, truth: Planted, fit_rows: int, recipes: Mapping[str, Any], seed: int, folder: Path
    ) -> None:
        """`recipes` as of `methods.recipes`; `folder` takes rows and the checkpoints of fits."""
        self.truth, self.recipes, self.seed, self.folder = truth, recipes, seed, folder
        self.fit = stored([rows[:fit_rows] for rows in truth.rows], folder / "fit")
        self.validation = stored([rows[fit_rows:] for rows in truth.rows], folder / "validation")
        self._fitted: dict[tuple[str, Sources], Dictionary] = {}
        self._values: dict[tuple[str, Sources], np.ndarray] = {}

    @property
    def sources(self) -> Sources:
        return tuple(range(len(self.truth.rows)))

    def pairs(self) -> list[tuple[int, int]]:
        """Every two sources once, the earlier one first."""
        return list(itertools.combinations(self.sources, 2))

    def columns(self) -> list[slice]:
        """Of each source, among the D of all."""
        ends = [0, *itertools.accumulate(rows.shape[1] for rows in self.truth.rows)]
        return [slice(*pair) for pair in itertools.pairwise(ends)]

    def dictionary(self, recipe: str, sources: Sources) -> Dictionary:
        """The dictionary of a recipe over some of the sources."""
        if (recipe, sources) not in self._fitted:
            data = AlignedRows([self.fit[s] for s in sources])
            state = self.folder / "-".join([recipe, *map(str, sources)])
            dictionary, _ = fit(data, self.recipes[recipe], self.seed, state, CPU)
            self._fitted[recipe, sources] = dictionary
        return self._fitted[recipe, sources]

    def rows(self, sources: Sources) -> AlignedRows:
        """Validation rows of some of the sources."""
        return AlignedRows([self.validation[s] for s in sources])

    def values(self, recipe: str, sources: Sources) -> np.ndarray:
        """Values [row, F] of that dictionary's features on the validation rows, by its thresholds."""
        if (recipe, sources) not in self._values:
            dictionary, data = self.dictionary(recipe, sources), self.rows(sources)
            found = np.zeros((data.count, dictionary.shape.features), np.float32)
            start = 0
            for rows, (row, feature), value in coded(dictionary, data, BATCH, CPU, "values"):
                found[start + row.numpy(), feature.numpy()] = value.numpy()
                start += len(rows)
            self._values[recipe, sources] = found
        return self._values[recipe, sources]
