"""Faults of docs/faults.md that no other file of tests has: each is told, and the named command goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from disks import small_disk
from running import again, begun, job_of, made, made_evenly, unmade
from workflow import prepare, run

TEXT = "results/corpus/own.parquet"  # what a job of seconds makes of the user's files


@pytest.mark.slow
def test_snakemake_killed_alone_leaves_a_lock_and_the_command_that_removes_it(copied: Path) -> None:
    """Its job lives on and is not disturbed; once that has ended nothing is lost."""
    wanted = made_evenly(copied, "fit")
    unmade(copied, "fit")
    with begun(copied, "fit") as process:
        job = job_of(process, "fit")
        process.kill()
        process.wait()
        refused = again(copied, "fit")
        assert refused.returncode != 0
        assert (
            "lock: another run of Snakemake works in this folder, or was killed" in refused.stderr
        )
        assert job.is_running()
        job.send_signal(signal.SIGTERM)
        job.wait(timeout=20)
    told = re.search(r"then run the same command again: (.*)", refused.stderr)
    assert told is not None
    subprocess.run(told[1], shell=True, cwd=copied, check=True, capture_output=True)
    found = again(copied, "fit")
    assert found.returncode == 0, found.stderr
    assert int(re.findall(r"resumed after step (\d+)", found.stderr)[0]) > 0
    assert made(copied, "fit") == wanted


@pytest.mark.slow
def test_a_second_run_in_a_folder_is_refused_and_the_first_ends_well(copied: Path) -> None:
    wanted = made_evenly(copied, "fit")
    unmade(copied, "fit")
    with begun(copied, "fit") as process:
        refused = again(copied, "fit")
        assert refused.returncode != 0
        assert "lock: another run of Snakemake works in this folder" in refused.stderr
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert made(copied, "fit") == wanted
    assert again(copied, "fit").returncode == 0


@pytest.mark.slow
def test_a_job_that_is_killed_ends_the_run_and_the_same_command_goes_on(copied: Path) -> None:
    """As the kernel does where memory is out."""
    wanted = made_evenly(copied, "train")
    unmade(copied, "train")
    with begun(copied, "train") as process:
        job_of(process, "train").kill()
        _, said = process.communicate(timeout=60)
        assert process.returncode != 0
    assert "died with <Signals.SIGKILL: 9>" in said
    assert "Error in rule train" in said
    assert not made(copied, "train")
    found = again(copied, "train")
    assert found.returncode == 0, found.stderr
    assert made(copied, "train") == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk")
def test_results_that_cannot_be_written_are_one_line_before_any_job(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "study")
    with small_disk(folder / "results", "4m") as disk:

        def remount(how: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)

        remount("ro")
        found = run(folder, TEXT)
        assert found.returncode != 0
        (line,) = [line for line in found.stderr.splitlines() if "Read-only file system" in line]
        assert line.startswith("config error: ")
        assert "cannot be written" in line
        assert "rule documents:" not in found.stderr
        remount("rw")
        found = run(folder, TEXT)
        assert found.returncode == 0, found.stderr


def test_text_from_the_future_is_named_and_goes_through_once_its_time_is_set(
    tmp_path: Path,
) -> None:
    folder = prepare(tmp_path / "study")
    text, wanted = folder / "own/000.txt", "results/logs/documents/own.log"
    ahead = text.stat().st_mtime + 86_400
    os.utime(text, (ahead, ahead))
    found = run(folder, TEXT)
    assert found.returncode != 0
    assert f"Output {TEXT} has older modification time" in found.stderr
    assert "than input own/000.txt" in found.stderr
    assert not (folder / TEXT).exists()
    text.touch()
    found = run(folder, TEXT)
    assert found.returncode == 0, found.stderr
    assert (folder / wanted).exists()
    again = run(folder, TEXT)
    assert "Nothing to be done" in again.stdout + again.stderr
