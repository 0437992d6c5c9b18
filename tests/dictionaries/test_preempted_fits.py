"""Fits that are told to end: not a step is lost, none done twice, the bytes are those of an even run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import RECIPE
from moediff.activations.rows import AlignedRows, Cutter
from moediff.core import artifact, checkpoint
from moediff.core.preemption import Preempted, heeded
from moediff.dictionaries import fitting
from moediff.dictionaries.fitting import Job, fit_all
from moediff.dictionaries.trainer import Fitter

CPU = torch.device("cpu")
STEPS = 230  # a point of the history each second step
SMALL = RECIPE | {"features": 40, "k": 4, "rows": STEPS * 64, "batch": 64, "tied": 4, "exclusive": 2,
                  "threshold_rows": 500}  # fmt: skip
RECIPES = {"plain": SMALL, "soft": SMALL | {
    "batch": 96, "select": "jumprelu", "penalties": {"l0": {"weight": 0.05, "tied": 0.5, "ramp": 0.2}},
}}  # fmt: skip
WHERE = {
    "in a step": (Fitter, "update"),
    "between steps": (Cutter, "cut"),
    "while it saves": (artifact, "write_tensors"),
}


@pytest.fixture
def rows(aligned_rows) -> AlignedRows:
    made = np.random.default_rng(0).normal(size=(4000, 12)).astype(np.float32)
    return aligned_rows([made, made[:, :6]], chunk_rows=300)


def jobs(state: Path) -> list[Job]:
    return [Job(name, recipe, 0, state / name) for name, recipe in RECIPES.items()]


def files(data: AlignedRows, state: Path, folder: Path) -> dict[str, bytes]:
    """What fits leave, as bytes of the files that a job writes."""
    folder.mkdir()
    for made, fitted in fit_all(data, jobs(state), CPU):
        fitted.dictionary.save(folder / f"{made.name}.safetensors", {})
        fitted.early.save(folder / f"{made.name}.early.safetensors", {})
        artifact.write_parquet(folder / f"{made.name}.parquet", fitted.history, {})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def before_call(monkeypatch, where: str, count: int, act: Callable[[], Any]) -> None:
    """Have the `count`-th call of a place begin with `act`."""
    owner, name = WHERE[where]
    plain, calls = getattr(owner, name), 0

    def counted(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == count:
            act()
        return plain(*arguments, **named)

    monkeypatch.setattr(owner, name, counted)


@pytest.mark.parametrize(
    ("where", "counts"),
    [("in a step", (1, 98, 77, 131)), ("between steps", (1, 3, 2)), ("while it saves", (1, 3, 2))],
)
def test_fits_told_to_end_go_on_after_the_step_that_they_were_at(
    where: str, counts: tuple[int, ...], rows, tmp_path: Path, monkeypatch
) -> None:
    wanted = files(rows, tmp_path / "even", tmp_path / "wanted")
    if where == "while it saves":
        monkeypatch.setattr(checkpoint, "LEAST_WAIT", 0.0)
        monkeypatch.setattr(checkpoint, "WAIT_PER_WRITE", 0)
    done, plain = [], Fitter.update
    monkeypatch.setattr(
        Fitter, "update", lambda self, rows: (done.append(self.step), plain(self, rows))[1]
    )
    for count in counts:
        with monkeypatch.context() as patched:
            before_call(patched, where, count, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(Preempted), heeded():
                list(fit_all(rows, jobs(tmp_path / "told"), CPU))
    assert 0 < len(done) < STEPS + STEPS * 64 // 96
    assert files(rows, tmp_path / "told", tmp_path / "found") == wanted
    assert sorted(done) == sorted([*range(STEPS), *range(STEPS * 64 // 96)])


def test_a_fit_told_to_end_that_diverged_keeps_no_state_to_go_on_from(
    rows, tmp_path: Path, monkeypatch
) -> None:
    """The one that diverged is fitted anew, and diverges again; the other goes on."""
    plain, done = Fitter.update, []

    def update(self, batch):
        measured = plain(self, batch)
        if self.recipe["batch"] == 64:
            measured["error"] = float("nan")
        else:
            done.append(self.step)
            if len(done) == 30:
                os.kill(os.getpid(), signal.SIGTERM)
        return measured

    monkeypatch.setattr(Fitter, "update", update)
    with pytest.raises(Preempted), heeded():
        list(fit_all(rows, jobs(tmp_path), CPU))
    assert not list((tmp_path / "plain").glob("step-*"))
    with pytest.raises(fitting.Diverged, match="plain"):
        list(fit_all(rows, jobs(tmp_path), CPU))
    assert done == list(range(1, STEPS * 64 // 96 + 1))
