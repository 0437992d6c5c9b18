"""Jobs killed at random and disks that fill: nothing is lost, and the bytes are those of an even run."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from disks import small_disk
from moediff.core import checkpoint
from snake import Study
from workflow import DICTIONARY, run

KILLS = 30  # of each job
DICTIONARY_FILES = ["dictionary.safetensors", "early.safetensors", "history.parquet"]
PRELOADED = ["snakemake.api", "moediff.dictionaries.fitting", "moediff.analysis.features",
             "moediff.analysis.evaluation", "moediff.report.charts"]  # fmt: skip
JOBS = {"fit": DICTIONARY_FILES, "metrics": ["metrics.json", "features.parquet"]}


def _job(folder: Path, target: str, ready: Connection) -> None:
    """Make a file by its rule's script, which saves at each point, once `ready` has been told."""
    torch.set_num_threads(1)
    checkpoint.LEAST_WAIT = checkpoint.WAIT_PER_WRITE = 0
    job = Study(folder).job(target)
    ready.send(True)
    job.run()


def begun(folder: Path, target: str) -> multiprocessing.process.BaseProcess:
    """A process that is about to begin with its work: forked from one that has imported what it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    here, there = context.Pipe()
    process = context.Process(target=_job, args=(folder, target, there))
    process.start()
    assert here.recv()
    return process


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_a_job_killed_at_thirty_random_instants_ends_with_the_same_bytes(
    copied: Path, name: str
) -> None:
    results = copied / "results"
    files = [results / DICTIONARY / file for file in JOBS[name]]
    target = files[0].relative_to(copied).as_posix()
    wanted = {path: path.read_bytes() for path in files}

    def anew() -> None:
        for path in files:
            path.unlink(missing_ok=True)
        shutil.rmtree(results / "state", ignore_errors=True)

    anew()
    process, started = begun(copied, target), time.monotonic()
    process.join()
    takes = time.monotonic() - started
    assert process.exitcode == 0
    assert {path: path.read_bytes() for path in files} == wanted
    anew()
    random, kills, ended = np.random.default_rng(17), 0, 0
    while kills < KILLS:
        process = begun(copied, target)
        process.join(float(random.uniform(0, takes)))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        for path in filter(Path.exists, files):  # whole or absent, at any instant
            assert path.read_bytes() == wanted[path], path
        if process.exitcode == 0:
            ended += 1
            anew()
    process = begun(copied, target)
    process.join()
    assert process.exitcode == 0
    assert {path: path.read_bytes() for path in files} == wanted
    print(f"{name}: {kills} kills, {ended} ends, {takes:.1f} s without one")
    assert not list(results.rglob(".*.partial"))


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk on which less fits than one checkpoint of the tiny study's dictionary."""
    with small_disk(tmp_path / "disk", "64k") as folder:
        (folder / "kept").touch()  # else Snakemake removes the folder after a job that failed
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("where", ["state", DICTIONARY])
def test_a_disk_that_is_full_in_fitting_is_one_line_and_loses_nothing(
    copied: Path, full: Path, where: str
) -> None:
    results = copied / "results"
    wanted = {name: (results / DICTIONARY / name).read_bytes() for name in DICTIONARY_FILES}
    shutil.rmtree(results / DICTIONARY)
    shutil.rmtree(results / "state")
    (results / where).parent.mkdir(parents=True, exist_ok=True)
    (results / where).symlink_to(full)
    target = f"results/{DICTIONARY}/dictionary.safetensors"
    found = run(copied, target)
    assert found.returncode != 0
    lines = [line for line in found.stderr.splitlines() if "error in fit" in line]
    assert len(lines) == 1
    assert "cannot be written (No space left on device); free space there" in lines[0]
    assert "Traceback" not in found.stderr
    (results / where).unlink()  # and now there is room
    found = run(copied, target)
    assert found.returncode == 0, found.stderr
    assert {name: (results / DICTIONARY / name).read_bytes() for name in wanted} == wanted
