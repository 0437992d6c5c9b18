"""Runs of fitting: killed at any instant, several from one stream, their thresholds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from conftest import RECIPE
from moediff.activations.rows import AlignedRows
from moediff.core import artifact, checkpoint
from moediff.core.errors import Diverged, UserError
from moediff.dictionaries import fitting
from moediff.dictionaries.fitting import Job, fit, fit_all
from moediff.dictionaries.trainer import Fitter

CPU = torch.device("cpu")
SMALL = RECIPE | {"features": 40, "k": 4, "rows": 60 * 128, "batch": 128, "tied": 4, "exclusive": 2,
                  "threshold_rows": 500}  # fmt: skip


def rows_of(aligned_rows, sources: int = 2) -> AlignedRows:
    rows = np.random.default_rng(0).normal(size=(4000, 12)).astype(np.float32)
    return aligned_rows([rows, rows[:, :6]][:sources], chunk_rows=300)


def same(one, other) -> bool:
    """Whether two dictionaries have the same bytes."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- killed and resumed -----------------------------------------------------------------------


def _killed(paths: list, recipe: dict, state: Path, where: str, count: int) -> None:
    """Fit in a process of its own, saving at each point, and die at the `count`-th call of `where`."""
    torch.set_num_threads(1)
    checkpoint.LEAST_WAIT = checkpoint.WAIT_PER_WRITE = 0
    module, name = {
        "step": (Fitter, "update"),
        "before writing": (artifact, "write_tensors"),
        "while writing": (artifact, "_flush"),
        "before renaming": (os, "replace"),
        "after renaming": (checkpoint.Path, "unlink"),
    }[where]
    plain, calls = getattr(module, name), 0

    def deadly(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == count:
            if where == "while writing":  # half of the file is on the disk
                os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments, **named)

    setattr(module, name, deadly)
    fit(AlignedRows(paths), recipe, 0, state, CPU)


def die(data: AlignedRows, recipe: dict, state: Path, where: str, count: int) -> int:
    """Exit code of such a process."""
    paths = [[shard.path for shard in shards] for shards in data.sources]
    process = multiprocessing.get_context("spawn").Process(
        target=_killed, args=(paths, recipe, state, where, count)
    )
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize(
    ("where", "count"),
    [("step", 41), ("before writing", 7), ("while writing", 11), ("before renaming", 9),
     ("after renaming", 5)],
)  # fmt: skip
def test_killed_at_any_instant_a_fit_ends_with_the_same_bytes(
    where: str, count: int, aligned_rows, tmp_path: Path, monkeypatch
) -> None:
    data = rows_of(aligned_rows)
    whole, history = fit(data, SMALL, 0, tmp_path / "whole", CPU)
    assert die(data, SMALL, tmp_path / "killed", where, count) == -signal.SIGKILL
    left = list((tmp_path / "killed").glob("step-*"))
    assert left, "nothing was saved before the process died"
    steps, plain = 0, Fitter.update

    def counted(self, rows):
        nonlocal steps
        steps += 1
        return plain(self, rows)

    monkeypatch.setattr(Fitter, "update", counted)
    resumed, again = fit(data, SMALL, 0, tmp_path / "killed", CPU)
    assert 0 < steps < 60
    assert again.equals(history)
    assert same(resumed, whole)
    early = [tmp_path / folder / "early.safetensors" for folder in ("whole", "killed")]
    assert early[0].read_bytes() == early[1].read_bytes()
    assert not list((tmp_path / "killed").glob(".*partial"))


@pytest.mark.parametrize("rule", ["plain", "soft"])
def test_the_early_dictionary_is_that_of_three_quarters_of_the_run(
    rule: str, aligned_rows, tmp_path: Path, monkeypatch
) -> None:
    data = rows_of(aligned_rows)
    job = Job("one", SMALL | SWEEP[rule], 0, tmp_path / "whole")
    ((_, fitted),) = fit_all(data, [job], CPU)
    kept, plain = {}, Fitter.update

    def update(self, rows):
        measured = plain(self, rows)
        kept[self.step] = {
            name: value.clone() for name, value in self.dictionary.state_dict().items()
        }
        return measured

    monkeypatch.setattr(Fitter, "update", update)
    ((_, again),) = fit_all(data, [Job("one", job.recipe, 0, tmp_path / "again")], CPU)
    assert same(again.early, fitted.early)
    early = fitted.early.state_dict()
    for name, value in kept[45].items():  # of 60 steps
        if name != "threshold":
            assert torch.equal(early[name], value), name
    assert not same(fitted.early, fitted.dictionary)
    fired = [
        len(fitted.early.encode(fitted.early.standardise(rows))[1]) for rows in data.in_order(500)
    ]
    if rule == "plain":  # its own threshold, not the one of the end
        assert sum(fired) / data.count == pytest.approx(SMALL["k"], rel=0.1)
        assert not torch.equal(fitted.early.threshold, fitted.dictionary.threshold)


def test_a_disk_that_fills_while_a_fit_saves_costs_what_came_after_its_last_save(
    aligned_rows, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(checkpoint, "LEAST_WAIT", 0)
    monkeypatch.setattr(checkpoint, "WAIT_PER_WRITE", 0)
    data, state, calls = rows_of(aligned_rows), tmp_path / "full", 0
    whole, history = fit(data, SMALL, 0, tmp_path / "whole", CPU)
    plain = safetensors.torch.save_file

    def save_file(tensors, path, metadata):
        nonlocal calls
        calls += 1
        plain(tensors, path, metadata)
        if calls == 7:
            os.truncate(path, 100)
            raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr("safetensors.torch.save_file", save_file)
        with pytest.raises(UserError, match=r"step-\d+\.safetensors: cannot be written \(No space"):
            fit(data, SMALL, 0, state, CPU)
    assert not list(state.glob(".*"))
    kept = checkpoint.newest(state)
    assert kept is not None
    assert kept[1]["step"] > 0
    resumed, again = fit(data, SMALL, 0, state, CPU)
    assert again.equals(history)
    assert same(resumed, whole)


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_without_its_early_dictionary_a_fit_begins_anew(
    aligned_rows, tmp_path: Path, harm: str
) -> None:
    data = rows_of(aligned_rows)
    whole, history = fit(data, SMALL, 0, tmp_path, CPU)
    early = tmp_path / "early.safetensors"
    content = early.read_bytes()
    early.write_bytes(content[:-5])
    if harm == "gone":
        early.unlink()
    resumed, again = fit(data, SMALL, 0, tmp_path, CPU)
    assert again.equals(history)
    assert same(resumed, whole)
    assert early.read_bytes() == content


@pytest.mark.slow
def test_killed_again_and_again_at_random_a_fit_ends_with_the_same_bytes(
    aligned_rows, tmp_path: Path
) -> None:
    data, random = rows_of(aligned_rows), np.random.default_rng(3)
    penalty = {"weight": 1e-3, "tied": 1, "ramp": 0.1}
    recipe = SMALL | {"rows": 600 * 128, "select": "jumprelu", "penalties": {"l0": penalty}}
    whole, history = fit(data, recipe, 0, tmp_path / "whole", CPU)
    paths = [[shard.path for shard in shards] for shards in data.sources]
    state, deaths = tmp_path / "killed", 0
    for _ in range(6):
        process = multiprocessing.get_context("spawn").Process(
            target=_killed, args=(paths, recipe, state, "step", 0)
        )
        process.start()
        begun = time.monotonic()
        before = len(list(state.glob("step-*")))
        while not list(state.glob("step-*"))[before:] and time.monotonic() - begun < 20:
            if not process.is_alive():
                break
            time.sleep(0.01)
        time.sleep(float(random.uniform(0, 0.15)))
        process.kill()
        process.join()
        deaths += process.exitcode == -signal.SIGKILL
    assert deaths >= 2
    resumed, again = fit(data, recipe, 0, state, CPU)
    assert again.equals(history)
    assert same(resumed, whole)


def test_checkpoints_wait_for_fifty_times_what_the_last_one_took(
    aligned_rows, tmp_path: Path, monkeypatch
) -> None:
    clock, saved = [0.0], []

    def save(folder, step, tensors, metadata):
        clock[0] += 3.0
        saved.append(step)

    def update(self, rows):
        clock[0] += 10.0
        self.step += 1
        return dict.fromkeys(fitting.SUMS, 1.0)

    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(Fitter, "update", update)
    fit(rows_of(aligned_rows), SMALL, 0, tmp_path, CPU)
    assert saved == [6, 21, 36, 51, 60]  # after 60 s, then each 150 s, and at the end


# --- several from one stream ------------------------------------------------------------------

SWEEP = {
    "plain": {},
    "more": {"features": 56, "k": 6},
    "row": {"select": "topk", "batch": 96},
    "soft": {"select": "relu", "penalties": {"l1": {"weight": 0.05, "tied": 0.5, "ramp": 0.2}}},
}


def test_a_sweep_reads_each_row_once_and_gives_the_same_bytes(
    aligned_rows, tmp_path: Path, monkeypatch
) -> None:
    data = rows_of(aligned_rows)
    jobs = [
        Job(name, SMALL | change, number % 2, tmp_path / "shared" / name)
        for number, (name, change) in enumerate(SWEEP.items())
    ]
    alone = {
        job.name: fit(data, job.recipe, job.seed, tmp_path / "alone" / job.name, CPU)
        for job in jobs
    }
    reads, plain = [], AlignedRows._pool

    def counted(self, chunks, *given):
        reads.extend(chunk.first for chunk in chunks)
        return plain(self, chunks, *given)

    monkeypatch.setattr(AlignedRows, "_pool", counted)
    found = {job.name: made for job, made in fit_all(data, jobs, CPU)}
    epochs = -(-SMALL["rows"] // 3500)  # 500 of 4,000 rows are held out
    assert max(reads.count(first) for first in reads) <= epochs + 1  # one pool is read ahead
    for name, (dictionary, history) in alone.items():
        assert same(found[name].dictionary, dictionary), name
        assert found[name].history.equals(history)

    # One changed: the others are taken from their finished states.
    steps, update = [], Fitter.update
    monkeypatch.setattr(
        Fitter, "update", lambda self, rows: (steps.append(self.recipe["k"]), update(self, rows))[1]
    )
    jobs[1] = Job("more", SMALL | {"features": 56, "k": 7}, 1, tmp_path / "shared" / "changed")
    again = {job.name: made for job, made in fit_all(data, jobs, CPU)}
    assert set(steps) == {7}
    for name in ("plain", "row", "soft"):
        assert same(again[name].dictionary, alone[name][0])


def test_jobs_resumed_from_different_steps_share_a_stream(
    aligned_rows, tmp_path: Path, monkeypatch
) -> None:
    data = rows_of(aligned_rows)
    whole = {name: fit(data, SMALL | change, 0, tmp_path / "alone" / name, CPU)
             for name, change in SWEEP.items()}  # fmt: skip
    monkeypatch.setattr(checkpoint, "LEAST_WAIT", 0)
    monkeypatch.setattr(checkpoint, "WAIT_PER_WRITE", 0)
    plain, jobs = Fitter.update, []

    class Stopped(BaseException):
        pass

    for place, (name, change) in enumerate(SWEEP.items()):
        jobs.append(Job(name, SMALL | change, 0, tmp_path / "shared" / name))
        last = 7 + 13 * place

        def update(self, rows, last=last):
            if self.step == last:
                raise Stopped
            return plain(self, rows)

        monkeypatch.setattr(Fitter, "update", update)
        with pytest.raises(Stopped):
            list(fit_all(data, jobs[-1:], CPU))
    monkeypatch.setattr(Fitter, "update", plain)
    for job, fitted in fit_all(data, jobs, CPU):
        assert same(fitted.dictionary, whole[job.name][0]), job.name
        assert fitted.history.equals(whole[job.name][1])


def test_one_that_diverges_costs_the_others_nothing(aligned_rows, tmp_path: Path) -> None:
    data = rows_of(aligned_rows)
    jobs = [
        Job("wild", SMALL | {"lr": 1e18, "clip": 1e30}, 0, tmp_path / "wild"),
        Job("tame", SMALL, 0, tmp_path / "tame"),
    ]
    found = fit_all(data, jobs, CPU)
    job, fitted = next(found)
    assert job.name == "tame"
    assert same(fitted.dictionary, fit(data, SMALL, 0, tmp_path / "alone", CPU)[0])
    with pytest.raises(Diverged, match="wild"):
        next(found)
