"""Several ranks that train one model: the losses of one process, whoever takes a run up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from conftest import DENSE, MOE, PLAN, VOCABULARY, write_tokens
from moediff.core import artifact, checkpoint
from moediff.core.errors import UserError
from moediff.core.ranks import Ranks, together, whole
from moediff.corpus.token_shards import TokenSplit
from moediff.models.build import build
from moediff.training import loop
from moediff.training.plan import Plan
from workflow import ROOT

CPU = torch.device("cpu")
# 100 steps over 24 sequences; batches that two and three ranks part unevenly.
LONG = replace(
    PLAN, batch=5, epochs=25, evaluations=10, router_losses={"balance": 0.01, "z": 0.001}
)


def run(
    tokens: Path,
    architecture: dict[str, Any],
    plan: Plan,
    folder: Path,
    sharded: bool = False,
    dies_at: int | None = None,
    *,
    ranks: Ranks,
) -> None:
    """What a rank does: train, leave history and weights in `folder`; the last may be killed on the way."""
    data = TokenSplit([tokens])
    torch.set_num_threads(1)
    # In float64: rounding sends a token that is near a tie to another expert, and a run is another then.
    model = build(architecture, VOCABULARY, data.tokens.shape[1], 0, 0).double()
    model.set_experts_implementation("eager")  # the grouped product knows no float64
    if dies_at is not None and ranks.rank == ranks.count - 1:
        _kill_at(dies_at)
    history = loop.train(
        model, plan, data, data, folder / "state", CPU, ranks=ranks, sharded=sharded
    )
    weights = {name: whole(value) for name, value in model.state_dict().items()}
    if ranks.leads:
        history.write_parquet(folder / "history.parquet")
        artifact.write_tensors(folder / "weights.safetensors", weights, {})


def _kill_at(step: int) -> None:
    taken = 0
    take = loop.Step.take

    def killed(self: loop.Step, *given: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, *given)

    loop.Step.take = killed


def refused(*, ranks: Ranks) -> None:
    if ranks.rank == 1:
        raise UserError("rank 1 has had enough")
    ranks.wait()


def values(folder: Path) -> np.ndarray:
    """Losses of a run, in one order."""
    table = pl.read_parquet(folder / "history.parquet").sort("step", "split", "domain", "name")
    return table["value"].to_numpy()


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tokens.h5", 24, 32, 0)


@pytest.fixture(scope="module")
def alone(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one process."""
    found = {}
    for name, architecture in (("dense", DENSE), ("moe", MOE)):
        found[name] = tmp_path_factory.mktemp(name)
        together(1, run, tokens, architecture, LONG, found[name])
    return found


@pytest.mark.parametrize(
    ("kind", "count", "sharded"), [("dense", 2, False), ("moe", 3, False), ("moe", 2, True)]
)
def test_ranks_have_the_losses_of_one_process(
    kind: str, count: int, sharded: bool, tokens: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    architecture = DENSE if kind == "dense" else MOE
    together(count, run, tokens, architecture, LONG, tmp_path, sharded)
    np.testing.assert_allclose(values(tmp_path), values(alone[kind]), rtol=0, atol=1e-5)
    found, wanted = (
        artifact.read_tensors(folder / "weights.safetensors")[0]
        for folder in (tmp_path, alone[kind])
    )
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("then", "sharded"), [(1, False), (3, True)])
def test_a_run_that_lost_a_rank_is_taken_up_by_another_number(
    then: int, sharded: bool, tokens: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="rank 1 of 2 ended by SIGKILL"):
        together(2, run, tokens, MOE, LONG, tmp_path, sharded, 47)
    assert (tmp_path / "state/step-000000040.safetensors").exists()
    assert not (tmp_path / "history.parquet").exists()
    together(then, run, tokens, MOE, LONG, tmp_path, sharded)
    np.testing.assert_allclose(values(tmp_path), values(alone["moe"]), rtol=0, atol=1e-5)


TOLD = """
import sys
from pathlib import Path
from conftest import MOE
from moediff.core import preemption
from moediff.core.ranks import together
from test_ranks import LONG, run

try:
    with preemption.heeded():
        together(2, run, Path(sys.argv[1]), MOE, LONG, Path(sys.argv[2]))
except preemption.Preempted as end:
    sys.exit(end.code)
"""


def test_ranks_that_are_told_to_end_keep_their_step_and_are_taken_up(
    tokens: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    script = tmp_path / "told.py"
    script.write_text(TOLD)  # with no guard, as a job's script has none
    paths = [str(ROOT / name) for name in ("scripts", "tests", "tests/training")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    for attempt in range(4):  # one in ten ends where an evaluation writes, which says nothing
        folder = tmp_path / str(attempt)
        command = [sys.executable, str(script), str(tokens), str(folder)]
        job = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        while not (folder / "state/step-000000020.safetensors").exists():
            assert job.poll() is None, job.stderr.read()
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        said = job.communicate(timeout=60)[1]
        assert job.returncode == 128 + signal.SIGTERM, said
        done = checkpoint.newest(folder / "state")[1]["step"]
        assert 20 <= done < 100
        if done % 10:
            break
    else:
        pytest.fail("four times no step but those of evaluations was kept")
    together(1, run, tokens, MOE, LONG, folder)
    np.testing.assert_allclose(values(folder), values(alone["moe"]), rtol=0, atol=1e-5)


def test_a_rank_that_cannot_go_on_ends_the_job_with_its_line() -> None:
    with pytest.raises(UserError, match=r"^rank 1 has had enough$"):
        together(2, refused)


def test_more_ranks_than_sequences_of_a_batch_are_refused(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 ranks share batches of 1 sequences"):
        together(2, run, tokens, DENSE, replace(LONG, batch=1), tmp_path)


def test_a_sharded_model_is_not_moved_by_muon(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="muon moves whole matrices"):
        together(2, run, tokens, DENSE, replace(LONG, optimizer="muon"), tmp_path, True)
