"""A job whose ranks are started on two nodes: what one process fits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch

from conftest import RECIPE
from moediff.core import artifact
from moediff.core.ranks import ALONE, together
from moediff.dictionaries import task
from workflow import ROOT

SMALL = RECIPE | {
    "features": 40, "k": 4, "rows": 100 * 128, "batch": 128, "exclusive": 3, "tied": 4,
    "threshold_rows": 300,
}  # fmt: skip


def job(folder: Path, rows: list[str], split: bool) -> task.Task:
    names = ("dictionary.safetensors", "early.safetensors", "history.parquet")
    return task.Task(
        rows=rows, points=[None, None], views=[None, None], sources=["a.0", "b.0"],
        fits=[{"name": "small", "seed": 0, "recipe": SMALL}],
        outputs=[str(folder / name) for name in names], device="cpu",
        state=str(folder / "state"), version=1, split=split,
    )  # fmt: skip


def test_two_nodes_that_share_features_fit_what_one_process_does(
    meeting, aligned_rows, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).normal(size=(2000, 12))
    data = aligned_rows([values, values[:, :6]], chunk_rows=300)
    rows = [str(shard.path) for shards in data.sources for shard in shards]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    task.run(job(alone, rows, False), ranks=ALONE)
    launcher = f"{sys.executable} {ROOT / 'tests/two_nodes.py'} torchrun 1"
    together(2, task.run, job(shared, rows, True), launcher=launcher, folder=tmp_path / "state")
    history, wanted = (pl.read_parquet(one / "history.parquet") for one in (shared, alone))
    assert len(history) == 100
    for name in history.columns:
        np.testing.assert_allclose(history[name], wanted[name], rtol=0, atol=1e-5, err_msg=name)
    for name in ("dictionary.safetensors", "early.safetensors"):
        (found, facts), (expected, others) = (
            artifact.read_tensors(one / name) for one in (shared, alone)
        )
        assert facts == others
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-4, msg=key)
