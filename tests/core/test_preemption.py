"""What a job does that is told to end: real processes, real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from moediff.core import preemption
from workflow import environment

# A job as Snakemake starts one: a body in `job`, and a line when it has begun.
JOB = """
import sys, time
from types import SimpleNamespace
from moediff.core import preemption
from moediff.job import job

snakemake = SimpleNamespace(log=[sys.argv[1]], threads=1, rule="made", resources={{}})
with job(snakemake):
    {body}
"""
WAITS = "print('begun', flush=True); time.sleep(60)"
IN_A_STEP = """
    with preemption.whole_step():
        print('begun', flush=True); time.sleep(1); print('whole', flush=True)
    time.sleep(60)
"""
HANGS = f"""
    preemption.SECONDS = 1
    with preemption.whole_step():
        {WAITS}
"""
HOLDS_A_FILE = """
    from moediff.core import artifact
    with artifact.whole(sys.argv[1] + ".result") as partial:
        partial.write_text("half"); print('begun', flush=True); time.sleep(60)
"""
TOO_LATE = """
    preemption.too_late()
    print('begun', flush=True); time.sleep(1); print('whole', flush=True)
"""


def told(
    body: str, log: Path, *signals: signal.Signals, ignored: Sequence[signal.Signals] = ()
) -> tuple[int, str, str]:
    """Exit code, output and log of a job that gets these signals once it has begun; within 20 seconds."""

    def before() -> None:  # whatever the tests were started with
        for number in preemption.SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    program = [sys.executable, "-c", JOB.format(body=body), str(log)]
    process = subprocess.Popen(
        program, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=before,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)  # of signals that come together Python hears the lowest first
    try:
        said, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, said, log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_job_that_is_told_to_end_says_so_in_one_line_and_by_its_exit_code(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    ended, _, log = told(WAITS, tmp_path / "a.log", number)
    assert ended == code
    assert len(log.splitlines()) == 1
    assert log.endswith(f"made: told to end ({number.name}); the same command goes on\n")


def test_a_job_that_is_to_outlive_its_terminal_does(tmp_path: Path) -> None:
    body = "print('begun', flush=True); time.sleep(1); print('whole', flush=True)"
    assert told(body, tmp_path / "a.log", signal.SIGHUP, ignored=[signal.SIGHUP])[:2] == (
        0,
        "whole\n",
    )


def test_a_step_is_done_whole_however_often_it_is_said(tmp_path: Path) -> None:
    again = [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]
    assert told(IN_A_STEP, tmp_path / "a.log", *again)[:2] == (143, "whole\n")


def test_a_job_that_hangs_is_ended_by_the_kernel(tmp_path: Path) -> None:
    assert told(HANGS, tmp_path / "a.log", signal.SIGTERM)[:2] == (-signal.SIGALRM, "")


def test_a_file_that_is_being_written_leaves_nothing(tmp_path: Path) -> None:
    assert told(HOLDS_A_FILE, tmp_path / "a.log", signal.SIGTERM)[0] == 143
    assert [path.name for path in tmp_path.iterdir()] == ["a.log"]


def test_a_job_in_its_last_instant_ends_well(tmp_path: Path) -> None:
    assert told(TOO_LATE, tmp_path / "a.log", signal.SIGTERM)[:2] == (0, "whole\n")
