"""Runs of Snakemake whose jobs are told to end, as schedulers do: retried or asked for again they go on."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest

from moediff.activations import caching
from running import JOBS, again, begun, job_of, made, made_evenly, unmade
from snake import Study
from workflow import TINY


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_a_job_told_to_end_is_retried_and_goes_on_at_its_step(copied: Path, name: str) -> None:
    log, wanted = copied / JOBS[name][2], made_evenly(copied, name)
    unmade(copied, name)
    with begun(copied, name, "--retries", "1") as process:
        job = job_of(process, name)
        job.send_signal(signal.SIGTERM)
        job.wait(timeout=20)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert f"{name}: told to end (SIGTERM); the same command goes on" in said
    (step,) = re.findall(r"resumed after step (\d+)", log.read_text())
    assert int(step) > 0
    assert made(copied, name) == wanted


@pytest.mark.slow
def test_a_run_told_to_end_with_all_its_jobs_is_gone_within_seconds_and_goes_on(
    copied: Path,
) -> None:
    """As Slurm does it to a job's processes, or a terminal at Ctrl-C."""
    wanted = made_evenly(copied, "fit")
    for number in (signal.SIGTERM, signal.SIGINT):
        unmade(copied, "fit")
        with begun(copied, "fit") as process:
            for member in [psutil.Process(process.pid), job_of(process, "fit")]:
                member.send_signal(number)
            process.communicate(timeout=30)
            assert process.returncode != 0
        found = again(copied, "fit")
        assert found.returncode == 0, found.stderr  # no lock is left, nothing to be removed
        assert int(re.findall(r"resumed after step (\d+)", found.stderr)[0]) > 0
        assert made(copied, "fit") == wanted


@pytest.mark.slow
def test_caching_told_to_end_keeps_whole_shards_and_is_not_torn_as_it_hands_them_over(
    copied: Path,
) -> None:
    study = Study(copied, {**TINY, "shards_per_job": 3})
    (rule,) = (rule for rule in study.rules() if rule.name == "cache_0")
    job = study._job(rule, {})
    paths = [copied / path for path in job.snakemake.output]
    wanted = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    begun = []

    def telling(at: int, plain: Callable) -> Callable:
        """`plain`, but in its `at`-th call the job is told to end."""

        def called(*arguments: Any) -> Any:
            begun.append(plain)
            if len(begun) == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(*arguments)

        return called

    with mock.patch.object(caching, "cache", telling(2, caching.cache)):
        with pytest.raises(SystemExit) as caught:
            job.run()
        assert caught.value.code == 143
        assert not any(path.exists() for path in paths)
        with mock.patch.object(os, "utime", telling(5, os.utime)):  # as the first is handed over
            job.run()
    assert len(begun) == 2 + 2 + 3  # the first shard is kept; three are handed over
    assert [path.read_bytes() for path in paths] == wanted
