"""A real run as its watcher sees it: at work, killed, told to end, finished."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moediff.core import job_log
from moediff.report import jobs
from running import JOBS, begun, job_of, unmade
from workflow import environment

FIT = "fit/moe-dense/moe.0_dense.0/default-0"


def watched(folder: Path) -> dict[str, Any]:
    """What the watcher writes of a study, which it is told in a config."""
    command = [sys.executable, "-m", "moediff.watch", "--write", "--configfile", "config.yaml"]
    found = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return json.loads((folder / "results/progress.json").read_text())


@pytest.mark.slow
def test_a_finished_study_has_every_job_finished_and_its_hours(finished: Path) -> None:
    results = finished / "results"
    facts = watched(finished)
    assert facts["run"] == jobs.OVER
    assert facts["jobs"] == []
    assert facts["steps"]["done"] == facts["steps"]["of"] > 0
    assert facts["counts"][jobs.FINISHED] == len([*(results / "benchmarks").rglob("*.tsv")]) > 40
    rows = json.loads((results / "benchmarks/stages.json").read_text())["stages"]
    took = {row["stage"]: row for row in rows}
    assert {"documents", "train", "fit", "cache", "metrics", "report"} <= set(took)
    assert took["fit"]["jobs"] == took["train"]["jobs"] == 2
    assert took["train"]["seconds"] > took["train"]["longest_seconds"] > 0
    assert 0.05 < took["train"]["peak_gb"] < 10
    assert 'href="benchmarks/stages.html"' in (results / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_job_is_seen_at_work_then_told_to_end_then_killed(copied: Path) -> None:
    assert JOBS["fit"][2] == f"results/logs/{FIT}.log"
    unmade(copied, "fit")
    with begun(copied, "fit") as process:
        facts = watched(copied)
        (job,) = (one for one in facts["jobs"] if one["name"] == FIT)
        assert (facts["run"], job["state"]) == (jobs.GOES_ON, jobs.RUNNING)
        assert 0 <= job["done"] < job["of"]
        assert job["unit"] == "rows"
        assert job["seconds_silent"] < jobs.SILENT_AFTER
        job_of(process, "fit").send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    facts = watched(copied)
    (job,) = (one for one in facts["jobs"] if one["name"] == FIT)
    assert (facts["run"], job["state"]) == (jobs.OVER, jobs.TOLD)
    assert job["says"] == job_log.told_to_end("fit", "SIGTERM")
    with begun(copied, "fit") as process:
        job_of(process, "fit").kill()
        process.communicate(timeout=60)
    (job,) = (one for one in watched(copied)["jobs"] if one["name"] == FIT)
    assert job["state"] == jobs.KILLED
