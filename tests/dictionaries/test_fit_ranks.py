"""Several ranks that fit one dictionary: what one process fits, whoever takes a run up."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from conftest import RECIPE
from moediff.activations.rows import AlignedRows
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.core.ranks import Ranks, together
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.fitting import fit
from moediff.dictionaries.scores import DenseScores, Linear
from moediff.dictionaries.selection import batch_top
from moediff.dictionaries.trainer import Fitter

CPU = torch.device("cpu")
# 100 steps; batches that two and three ranks part unevenly, features that die, so that AuxK has work.
SMALL = RECIPE | {
    "features": 40, "k": 4, "rows": 100 * 127, "batch": 127, "tied": 4, "exclusive": 2, "lr": 1e-3,
    "threshold_rows": 500, "dead_after": 0.05, "prefixes": [0.5, 1.0],
}  # fmt: skip
PENALISED = {"penalties": {"l1": {"weight": 0.01, "tied": 0.5, "ramp": 0.1}}}
WAYS: dict[str, dict[str, Any]] = {
    "batchtopk": {},
    "topk": {"select": "topk", "loss": "norm"},
    "relu": {"select": "relu"} | PENALISED,
    "jumprelu": {"select": "jumprelu", "bandwidth": 0.05} | PENALISED,
}


def run(
    paths: list[list[Path]],
    recipe: dict[str, Any],
    folder: Path,
    dies_at: int | None = None,
    *,
    ranks: Ranks,
) -> None:
    """What a rank does: fit, leave dictionary and history in `folder`; the last may be killed on the way."""
    torch.set_num_threads(1)
    if dies_at is not None and ranks.rank == ranks.count - 1:
        _kill_at(dies_at)
    dictionary, history = fit(AlignedRows(paths), recipe, 0, folder / "state", CPU, ranks)
    if ranks.leads:
        dictionary.save(folder / "dictionary.safetensors", artifact.made_by("dictionaries"))
        history.write_parquet(folder / "history.parquet")


def _kill_at(step: int) -> None:
    update, taken = Fitter.update, 0

    def killed(self: Fitter, rows: torch.Tensor) -> dict[str, float]:
        nonlocal taken
        taken += 1
        if taken == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, rows)

    Fitter.update = killed


@pytest.fixture
def paths(aligned_rows) -> list[list[Path]]:
    rows = np.random.default_rng(0).normal(size=(4000, 12)).astype(np.float32)
    data = aligned_rows([rows, rows[:, :6]], chunk_rows=300)
    return [[shard.path for shard in shards] for shards in data.sources]


def agree(folder: Path, alone: Path) -> None:
    """Histories agree to 1e-5, parameters to what a hundred steps make of rounding."""
    history, wanted = (pl.read_parquet(one / "history.parquet") for one in (folder, alone))
    for name in history.columns:
        np.testing.assert_allclose(history[name], wanted[name], rtol=0, atol=1e-5, err_msg=name)
    found, expected = (
        Dictionary.load(one / "dictionary.safetensors")[0].state_dict() for one in (folder, alone)
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("way", "count"), [("batchtopk", 3), ("topk", 2), ("relu", 2), ("jumprelu", 2)]
)
def test_ranks_fit_what_one_process_does(
    way: str, count: int, paths: list[list[Path]], tmp_path: Path
) -> None:
    recipe = SMALL | WAYS[way]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder, ranks in ((alone, 1), (shared, count)):
        folder.mkdir()
        together(ranks, run, paths, recipe, folder)
    if way in ("batchtopk", "topk"):
        assert pl.read_parquet(alone / "history.parquet")["dead_share"].max() > 0
    agree(shared, alone)


@pytest.mark.parametrize("then", [1, 3])
def test_a_fit_that_lost_a_rank_is_taken_up_by_another_number(
    then: int, paths: list[list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder in (alone, shared):
        folder.mkdir()
    together(1, run, paths, SMALL, alone)
    with pytest.raises(UserError, match="rank 1 of 2 ended by SIGKILL"):
        together(2, run_saving, paths, SMALL, shared, 47)
    assert list((shared / "state").glob("step-*"))
    together(then, run, paths, SMALL, shared)
    agree(shared, alone)


def run_saving(*given: Any, ranks: Ranks) -> None:
    """`run`, with a checkpoint after every step."""
    from moediff.core import checkpoint

    checkpoint.LEAST_WAIT = checkpoint.WAIT_PER_WRITE = 0
    run(*given, ranks=ranks)


def ties(folder: Path, *, ranks: Ranks) -> None:
    """Select among scores of which many are equal; each rank writes the rows and features it has."""
    rows = torch.randint(0, 3, (31, 6), generator=torch.Generator().manual_seed(0)).float()
    first, last = ranks.bounds(len(rows))
    for number, (count, guess) in enumerate([(40, 0.0), (40, 1.9), (7, 5.0), (31 * 6, 0.5)]):
        scores = DenseScores(rows[first:last], [_identity()])
        (row, feature), values = batch_top(scores, count, guess, ranks)
        found = pl.DataFrame({"row": row + first, "feature": feature, "value": values})
        found.write_parquet(folder / f"{number}-{ranks.count}-{ranks.rank}.parquet")


def _identity() -> Linear:
    return Linear(torch.eye(6), torch.zeros(6), torch.ones(6), slice(0, 6), slice(0, 6))


def test_equal_scores_are_taken_in_the_order_of_rows_over_all_ranks(tmp_path: Path) -> None:
    together(1, ties, tmp_path)
    together(3, ties, tmp_path)
    for number in range(4):
        alone = pl.read_parquet(tmp_path / f"{number}-1-0.parquet")
        parts = [pl.read_parquet(tmp_path / f"{number}-3-{rank}.parquet") for rank in range(3)]
        assert pl.concat(parts).sort("row", "feature").equals(alone.sort("row", "feature"))
