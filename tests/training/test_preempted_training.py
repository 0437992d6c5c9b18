"""Training that is told to end: not a step is lost, none done twice, the bytes are those of an even run."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import MOE, PLAN
from moediff.core import artifact, checkpoint
from moediff.core.preemption import Preempted, heeded
from moediff.core.progress import Progress
from moediff.corpus.token_shards import TokenSplit
from moediff.models import loading
from moediff.training import loop
from moediff.training.optimizers import OPTIMIZERS
from moediff.training.step import Step

CPU = torch.device("cpu")
STEPS, KEEP = 12, [4, 6]  # marks at 3, 4, 6, 9 and 12
WHERE = {
    "in a step": (Step, "take"),
    "between steps": (Progress, "advance"),
    "while it is measured": (loop, "evaluate"),
    "while weights are kept": (artifact, "write_tensors"),
    "while it saves": (checkpoint, "save"),
}


@pytest.fixture
def data(token_shard) -> TokenSplit:
    return TokenSplit([token_shard()])


def contents(folder: Path, model, state: Path, history) -> dict[str, bytes]:
    """What a run leaves, as bytes of files."""
    loading.save(model, folder)
    artifact.write_parquet(folder / "history.parquet", history, {})
    for step in KEEP:
        loop.take_kept(model, state, step)
        loading.save(model, folder / str(step))
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("where", "counts"),
    [
        ("in a step", (1, 4, 2, 3)),
        ("between steps", (1, 2, 2, 3)),
        ("while it is measured", (1, 1, 2, 2)),
        ("while weights are kept", (1, 2, 3)),
        ("while it saves", (1, 2, 1)),
    ],
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_told_to_end_goes_on_after_the_step_that_it_was_at(
    optimizer: str,
    where: str,
    counts: tuple[int, ...],
    data,
    tiny_model,
    tmp_path: Path,
    monkeypatch,
) -> None:
    plan, whole = replace(PLAN, optimizer=optimizer), tiny_model(MOE)
    history = loop.train(whole, plan, data, data, tmp_path / "even", CPU, keep=KEEP)
    wanted = contents(tmp_path / "wanted", whole, tmp_path / "even", history)
    taken, take = 0, Step.take

    def counted_take(*arguments):
        nonlocal taken
        taken += 1
        return take(*arguments)

    monkeypatch.setattr(Step, "take", counted_take)
    for seed, count in enumerate(counts):
        owner, name = WHERE[where]
        plain, calls = getattr(owner, name), 0

        def told(*arguments, count=count, plain=plain, **named):
            nonlocal calls
            calls += 1
            if calls == count:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(*arguments, **named)

        model = tiny_model(MOE, seed=seed)  # only the first may begin with what it has
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, told)
            with pytest.raises(Preempted), heeded():
                loop.train(model, plan, data, data, tmp_path / "told", CPU, keep=KEEP)
        assert 0 < taken < STEPS
    model = tiny_model(MOE, seed=5)
    again = loop.train(model, plan, data, data, tmp_path / "told", CPU, keep=KEEP)
    assert contents(tmp_path / "found", model, tmp_path / "told", again) == wanted
    assert taken == STEPS


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def test_a_killed_run_loses_only_what_it_did_since_a_checkpoint_that_time_made_due(
    data, tiny_model, tmp_path: Path, monkeypatch
) -> None:
    whole = tiny_model(MOE)
    history = loop.train(whole, PLAN, data, data, tmp_path / "even", CPU)
    taken, take, clock = 0, Step.take, [0.0]

    def timed(*arguments):
        nonlocal taken
        taken += 1
        if taken == 9:
            raise Killed
        clock[0] += 25.0  # a checkpoint is due after each third step
        return take(*arguments)

    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Step, "take", timed)
    plan = replace(PLAN, evaluations=1)  # no other checkpoint on the way
    with pytest.raises(Killed):
        loop.train(tiny_model(MOE), plan, data, data, tmp_path / "killed", CPU)
    model = tiny_model(MOE, seed=1)
    again = loop.train(model, plan, data, data, tmp_path / "killed", CPU)
    assert taken == STEPS + 2 + 1  # the seventh and the eighth are done again, the ninth was begun
    at = {"step": STEPS, "split": "validation"}
    assert again.filter(**at).equals(history.filter(**at))
    one, two = whole.state_dict(), model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    even = loop.train(tiny_model(MOE), plan, data, data, tmp_path / "even-1", CPU)
    assert again.equals(even)


def test_a_checkpoint_of_before_whose_sums_were_not_kept_is_taken_up(
    data, tiny_model, tmp_path: Path, monkeypatch
) -> None:
    whole = tiny_model(MOE)
    history = loop.train(whole, PLAN, data, data, tmp_path / "even", CPU)
    plain = checkpoint.save

    def save(folder, step, tensors, metadata):
        plain(folder, step, tensors, {key: metadata[key] for key in ("history", "optimizer")})
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", save)
        with pytest.raises(Preempted), heeded():
            loop.train(tiny_model(MOE), PLAN, data, data, tmp_path / "old", CPU)
    model = tiny_model(MOE, seed=1)
    again = loop.train(model, PLAN, data, data, tmp_path / "old", CPU)
    assert again.equals(history)
    one, two = whole.state_dict(), model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
