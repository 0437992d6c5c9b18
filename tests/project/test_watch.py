"""The command that watches a run: once or on a terminal, what it prints and what it writes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch

from moediff import watch
from moediff.core import checkpoint, job_log
from moediff.core.progress import Count
from moediff.report import events, jobs
from moediff.report.jobs import Job, Look
from workflow import ROOT, environment


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of which one job has a log."""
    log = tmp_path / "results/logs/train/moe-0.log"
    log.parent.mkdir(parents=True)
    log.write_text("03:04:05 moe.0: 0 of 900 tokens\n03:04:15 moe.0: 300 of 900 tokens\n")
    return tmp_path / "results"


def job(name: str, state: str = jobs.RUNNING, **told: object) -> Job:
    count = Count("moe.0", 300, 900, "tokens", "step 3")
    known = {"last": "it says this", "count": count, "rate": 1500.0} | told
    return Job(name, state, None if state == jobs.WAITING else 75.0, job_log.Told(**known))


def lines(*found: Job, width: int = 200, height: int = 50, **facts: object) -> list[str]:
    look = {"run": jobs.GOES_ON, "steps": (2, 9), "finished": 2, "ahead": 0.0} | facts
    return watch.table(Look(jobs=list(found), **look), width, height)  # type: ignore[arg-type]


def test_a_job_has_a_line_with_all_that_its_log_tells() -> None:
    head, columns, line = lines(job("train/moe-0"))
    assert head == "a run goes on: 2 of 9 steps (22 %); jobs: 1 running, 2 finished"
    assert columns.split() == ["job", "done", "rate", "left", "last", "line", "at"]
    assert re.split(r" {2,}", line) == [
        "train/moe-0", "running", "33 % of 900 tokens", "1,500 tokens/s", "0 s", "75 s ago",
        "moe.0, step 3",
    ]  # fmt: skip


def test_a_job_that_failed_says_why_and_has_no_time_left() -> None:
    *_, line = lines(job("fit/a", jobs.FAILED, error="error in fit: no\nsuch thing", rate=None))
    assert re.split(r" {2,}", line) == [
        "fit/a", "failed", "33 % of 900 tokens", "75 s ago", "error in fit: no\\nsuch thing",
    ]  # fmt: skip


def test_lines_and_rows_fit_the_terminal() -> None:
    many = [job(f"train/model-{'long' * 30}-{n}") for n in range(40)]
    shown = lines(*many, width=80, height=12)
    assert len(shown) <= 12
    assert all(len(line) <= 80 for line in shown)
    assert shown[-1] == f"and {40 - (len(shown) - 3)} more"
    whole = lines(*many, height=60)
    assert len(whole) == 42
    assert "more" not in whole[-1]
    assert "..." in whole[-1].split()[0]
    assert whole[-1].split()[0].endswith("-39")


def test_nothing_yet_is_one_line_and_a_clock_ahead_another() -> None:
    assert lines(run=jobs.UNKNOWN, steps=None, finished=0) == [
        "no run is known here; jobs: none yet"
    ]
    assert "the disk's clock is 5 min ahead" in lines(ahead=300.0)[1]


def test_every_state_of_a_run_has_words_and_every_state_that_matters_a_color() -> None:
    assert set(watch.RUNS) == {jobs.GOES_ON, jobs.OVER, jobs.STOPPED, jobs.UNKNOWN}
    assert set(watch.COLORS) == set(jobs.STATES) - {jobs.RUNNING, jobs.FINISHED}
    look = Look(jobs.GOES_ON, None, [job("a"), job("b", jobs.FAILED)], 0, 0.0)
    *_, plain, failed = watch.table(look, 200, 50, color=True)
    assert "\x1b" not in plain
    assert failed.startswith("\x1b[31m")
    assert failed.endswith("\x1b[0m")


def test_without_a_terminal_it_prints_once_and_writes_nothing(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(results.rglob("*"))
    assert watch.main([str(results)]) == 0
    said = capsys.readouterr().out
    assert "33 % of 900 tokens  30 tokens/s  20 s" in said
    assert "\x1b" not in said
    assert sorted(results.rglob("*")) == before


def test_results_are_found_by_a_config_and_progress_is_written(
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("results: elsewhere\n")
    (tmp_path / "b.yaml").write_text("results: results\n")
    (tmp_path / "c.yaml").write_text("corpus: {}\n")
    files = ["a.yaml", "b.yaml", "c.yaml"]
    before = set(results.rglob("*"))
    assert watch.main(["--write", "--configfile", *files]) == 0
    assert set(results.rglob("*")) - before == {results / watch.WRITTEN}
    facts = json.loads((results / watch.WRITTEN).read_text())
    assert set(facts) == {"at", "run", "steps", "counts", "jobs"}
    (one,) = facts["jobs"]
    assert (one["done"], one["of"], one["unit"], one["per_second"]) == (300, 900, "tokens", 30.0)
    assert one["seconds_left"] == 20
    assert watch.main([]) == 0  # of the folder `results`
    assert capsys.readouterr().out.count("train/moe-0") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none"], "none: no such folder"),
        (["results", "--configfile", "a.yaml"], "name the results or a config, not both"),
        (["--configfile", "none.yaml"], "none.yaml: cannot be read"),
        (["--configfile", "cut.yaml"], "cut.yaml: cannot be read"),
    ],
)
def test_what_cannot_be_watched_is_one_line(
    results: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(results.parent)
    Path("cut.yaml").write_text("results: [a\n")
    assert watch.main(arguments) == 1
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_without_tensorboard_the_line_says_what_to_install(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert watch.main([str(results), "--tensorboard", "x"]) == 1
    assert capsys.readouterr().err == f"error: {events.INSTALL}\n"


@pytest.mark.skipif(bool(events.lacking()), reason=events.INSTALL)
def test_event_files_are_written_outside_the_results(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch.main([str(results), "--tensorboard", str(results / "events")]) == 1
    assert "lies in the results" in capsys.readouterr().err
    run = "models/moe/seed-0"
    facts = {"name": "moe.0", "history": [{"step": 1, "fve": 0.5}]}
    checkpoint.save(results / "state/train-0", 1, {"w": torch.ones(3)}, facts)
    assert watch.main([str(results), "--tensorboard", str(tmp_path / "events")]) == 0
    (made,) = (tmp_path / "events" / run).iterdir()
    assert made.read_bytes() == events.encoded(facts["history"])


def read_until(terminal: int, wanted: str, seconds: float = 60) -> str:
    """What comes from a terminal until it has a text."""
    found, until = "", time.monotonic() + seconds
    while wanted not in found:
        assert time.monotonic() < until, found
        if select.select([terminal], [], [], 0.2)[0]:
            found += os.read(terminal, 65536).decode()
    return found


def test_on_a_terminal_it_is_drawn_in_place_until_ctrl_c(results: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "moediff.watch", str(results), "--every", "0.2"]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, cwd=ROOT,
                               env=environment(), start_new_session=True)  # fmt: skip
    try:
        read_until(ours, "33 % of 900 tokens")
        log = results / "logs/train/moe-0.log"
        log.write_text(log.read_text() + "03:04:25 moe.0: 600 of 900 tokens\n")
        again = read_until(ours, "66 % of 900 tokens")
        assert "\x1b[3F\x1b[J" in again  # three lines up, and all below is gone
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
