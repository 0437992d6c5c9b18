"""Several ranks that train one model: the losses of one process, whoever takes a run up."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from conftest import DENSE, MOE, PLAN, VOCABULARY
from moediff.core import ranks as ranks_of
from moediff.core.errors import UserError
from moediff.core.ranks import Ranks, together
from moediff.corpus.token_shards import TokenSplit
from moediff.models.build import build
from moediff.training import loop
from moediff.training.plan import Plan

STEPS = 100
LONG = replace(PLAN, batch=6, epochs=STEPS // 4, evaluations=10)  # 24 sequences: 4 steps an epoch
CPU = torch.device("cpu")


def train(
    shard: Path, architecture: dict[str, Any], plan: Plan, folder: Path, sharded: bool = False,
    dies_at: int | None = None, *, ranks: Ranks,
) -> None:  # fmt: skip
    """What a rank does: train, and leave history and weights in `folder`."""
    data = TokenSplit([shard])
    model = build(architecture, VOCABULARY, data.tokens.shape[1], 0, 0)
    if dies_at is not None:
        _die(dies_at, ranks)
    history = loop.train(
        model, plan, data, data, folder / "state", CPU, ranks=ranks, sharded=sharded
    )
    weights = {name: ranks_of.whole(value) for name, value in model.state_dict().items()}
    if ranks.leads:
        history.write_parquet(folder / "history.parquet")
        torch.save(weights, folder / "weights.pt")


def _die(at: int, ranks: Ranks) -> None:
    """The last rank is killed once the checkpoint of a step is there."""
    write = loop._write

    def killed(state: Path, step: int, *given: Any) -> None:
        write(state, step, *given)
        if step >= at:
            os.kill(os.getpid(), signal.SIGKILL)

    if ranks.leads:
        loop._write = killed


def refused(*, ranks: Ranks) -> None:
    if ranks.rank == 1:
        raise UserError("rank 1 has had enough")
    ranks.wait()


def losses(folder: Path) -> np.ndarray:
    return pl.read_parquet(folder / "history.parquet").sort("step", "split", "domain", "name")["value"].to_numpy()  # fmt: skip


def made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def shard(tmp_path_factory, token_shard_at) -> Path:
    return token_shard_at(tmp_path_factory.mktemp("shard"))
