"""Several ranks that fit one dictionary: what one process fits, whoever takes a run up.

They share the rows of every batch, or are to `split` the dictionary by its features. All runs of three ranks
are made by the same three processes, since those take longer to start than to fit.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from conftest import RECIPE, rows_below
from fit_by_ranks import Case, fit, fit_and_die, fit_each, ties
from moediff.core import artifact, checkpoint
from moediff.core.errors import UserError
from moediff.core.ranks import Ranks, together
from moediff.dictionaries.dictionary import Dictionary

# 100 steps; batches and blocks that two and three ranks part unevenly, features that die, so that AuxK has
# work.
SMALL = RECIPE | {
    "features": 41, "k": 4, "rows": 100 * 127, "batch": 127, "tied": 4, "exclusive": 3, "lr": 1e-3,
    "threshold_rows": 500, "dead_after": 0.05, "prefixes": [0.5, 1.0],
}  # fmt: skip
PENALISED = {"penalties": {"l1": {"weight": 0.01, "tied": 0.5, "ramp": 0.1}}}
WAYS: dict[str, dict[str, Any]] = {
    "batchtopk": {},
    "topk": {"select": "topk", "loss": "norm", "normalise": "whiten"},
    "relu": {"select": "relu"} | PENALISED,
    "jumprelu": {"select": "jumprelu", "bandwidth": 0.05} | PENALISED,
    "screened": {"screen": True},
}
SHARED = {False: "rows", True: "features"}
# By what the two ranks of which one was killed shared, who takes the run up, and by what.
TAKEN_UP = [
    (False, 1, False), (False, 3, False), (False, 3, True),
    (True, 1, False), (True, 3, False), (True, 3, True),
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what every run left."""
    base = tmp_path_factory.mktemp("ranks")
    rows = np.random.default_rng(0).normal(size=(4000, 12)).astype(np.float32)
    data = rows_below(base)([rows, rows[:, :6]], chunk_rows=300)
    paths = [[shard.path for shard in shards] for shards in data.sources]

    def case(name: str, way: str, split: bool, begun: Path | None = None) -> Case:
        folder = base / name
        if begun is None:
            folder.mkdir()
        else:
            shutil.copytree(begun, folder)
        return Case(SMALL | WAYS[way], split, folder)

    killed = {split: case(f"killed-{split}", "batchtopk", split) for split in SHARED}
    for one in killed.values():
        with pytest.raises(
            UserError, match=r"^rank 1 of 2 ended by SIGKILL, and the job with it; "
        ):
            together(2, fit_and_die, paths, one)
    alone = [case(f"{way}-alone", way, False) for way in WAYS]
    shared = [case(f"{way}-{split}", way, split) for way in WAYS for split in SHARED]
    for before, count, split in TAKEN_UP:
        one = case(f"taken-{before}-{count}-{split}", "batchtopk", split, killed[before].folder)
        (alone if count == 1 else shared).append(one)
    for one in alone:
        together(1, fit, paths, one)
    for split in SHARED:
        ties(base, split, ranks=Ranks())
    together(3, fit_each, paths, shared, base)
    return base


def agree(folder: Path, alone: Path) -> None:
    """Histories agree to 1e-5, parameters to what a hundred steps make of rounding."""
    history, wanted = (pl.read_parquet(one / "history.parquet") for one in (folder, alone))
    assert history["step"].to_list() == list(range(1, 101))
    for name in history.columns:
        np.testing.assert_allclose(history[name], wanted[name], rtol=0, atol=1e-5, err_msg=name)
    for file in ("dictionary.safetensors", "early.safetensors"):
        (found, facts), (expected, others) = (
            artifact.read_tensors(one / file) for one in (folder, alone)
        )
        assert facts == others
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, msg=name)
        Dictionary.load(folder / file)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("split", SHARED, ids=SHARED.get)
def test_three_ranks_fit_what_one_process_does(way: str, split: bool, made: Path) -> None:
    alone = made / f"{way}-alone"
    if way in ("batchtopk", "topk"):
        assert pl.read_parquet(alone / "history.parquet")["dead_share"].max() > 0
    agree(made / f"{way}-{split}", alone)


@pytest.mark.parametrize(("before", "count", "split"), TAKEN_UP)
def test_a_fit_that_lost_a_rank_is_taken_up_by_another_number(
    before: bool, count: int, split: bool, made: Path
) -> None:
    killed = made / f"killed-{before}"
    assert checkpoint.newest(killed / "state")[1]["step"] == 46
    assert not (killed / "history.parquet").exists()
    agree(made / f"taken-{before}-{count}-{split}", made / "batchtopk-alone")


def test_a_rank_holds_its_features_and_their_moments_alone(made: Path) -> None:
    def held(name: str, rank: int) -> dict[str, int]:
        return json.loads((made / name / f"bytes-{rank}.json").read_text())

    (whole,), parts = [held("jumprelu-alone", 0)], [held("jumprelu-True", n) for n in range(3)]
    common = 4 * 18  # the decoder's bias
    counters = 4 * 15  # of steps, one a parameter
    for name, each in {"parameters": common, "optimizer": 2 * common + counters}.items():
        assert sum(part[name] - each for part in parts) == whole[name] - each
        assert max(part[name] - each for part in parts) < 0.4 * (whole[name] - each)
    assert all(held("jumprelu-False", n) == whole for n in range(3))


@pytest.mark.parametrize("split", SHARED, ids=SHARED.get)
def test_equal_scores_are_taken_in_the_order_of_one_process(split: bool, made: Path) -> None:
    for name in (*(f"batch-{number}" for number in range(4)), "rows-1", "rows-3", "rows-8"):
        alone = pl.read_parquet(made / f"{name}-{split}-1-0.parquet")
        parts = [pl.read_parquet(made / f"{name}-{split}-3-{rank}.parquet") for rank in range(3)]
        assert sum(len(part) > 0 for part in parts) > 1 or name == "batch-2"  # of which one has all
        assert pl.concat(parts).sort("row", "feature").equals(alone.sort("row", "feature"))
