"""Devices shared out among real processes; the devices themselves are pretended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from moediff.core import gpus
from moediff.core.errors import UserError
from workflow import environment

# A job of a rule, on a machine of pretended devices, which notes when it had which, and for how long.
JOB = """
import json, os, sys, time
from pathlib import Path
from types import SimpleNamespace
from moediff.core import gpus
from moediff.job import job

folder, uuids = Path(sys.argv[1]), json.loads(sys.argv[4])
count, seconds = int(sys.argv[2]), float(sys.argv[3])
gpus.LOCKS = folder / "locks"
def uuids_of(named):
    names = range(len(uuids)) if named is None else filter(None, named.split(","))
    return [uuids[int(name)] for name in names]

gpus.uuids_of = uuids_of
log = str(folder / f"{os.getpid()}.log")
began = time.monotonic()
with job(SimpleNamespace(log=[log], threads=1, rule="made", resources={"gpu": count})):
    took = time.monotonic()
    print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    time.sleep(seconds)
    ended = time.monotonic()
    device = os.environ.get("CUDA_VISIBLE_DEVICES")
    note = {"device": device, "began": began, "took": took, "ended": ended}
    (folder / f"{os.getpid()}.json").write_text(json.dumps(note))
"""
THREE = ["aa", "bb", "cc"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    """Starts jobs; what is left of them ends with the test."""
    processes = []

    def begin(count: int = 1, seconds: float = 60, uuids=THREE, visible=None) -> subprocess.Popen:
        program = [
            sys.executable,
            "-c",
            JOB,
            str(tmp_path),
            str(count),
            str(seconds),
            json.dumps(uuids),
        ]
        variables = {key: value for key, value in environment().items() if key != gpus.VISIBLE}
        if visible is not None:
            variables[gpus.VISIBLE] = visible
        process = subprocess.Popen(program, env=variables, stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.PIPE)  # fmt: skip
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def device_of(process: subprocess.Popen) -> str:
    """What a job sees, once it has it."""
    return process.stdout.readline().strip()


def waits(folder: Path, process: subprocess.Popen) -> str:
    """The one line of the log of a job that waits for a device, once it does."""
    log, until = folder / f"{process.pid}.log", time.monotonic() + 20
    while not (log.exists() and log.read_text()):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(3 * gpus.EVERY)  # and says it once
    (line,) = log.read_text().splitlines()
    return line


def test_eight_jobs_share_three_devices_none_twice_and_none_idle_while_one_waits(
    start, tmp_path: Path
) -> None:
    jobs = [start(seconds=1.0 + 0.3 * (number % 3)) for number in range(8)]
    for process in jobs:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    notes = [json.loads((tmp_path / f"{process.pid}.json").read_text()) for process in jobs]
    assert {note["device"] for note in notes} == {"0", "1", "2"}
    by_device = [sorted((n["took"], n["ended"]) for n in notes if n["device"] == d) for d in "012"]
    for spans in by_device:
        assert all(one[1] <= two[0] for one, two in pairwise(spans))
    # A job that waited took its device as another let it go, and at no time before was one free.
    longest = 2.0  # seconds from one job's end to the next one's begin, on a busy machine
    for note in notes:
        for spans in by_device:
            busy = [span for span in spans if span[1] > note["began"] and span[0] < note["took"]]
            at = note["began"] + longest  # the first jobs may still be starting
            for taken, ended in busy:
                assert taken - at < longest
                at = max(at, ended)
            assert note["took"] - at < longest


def test_a_job_that_finds_no_device_free_says_so_once_and_has_the_first_that_is(
    start, tmp_path: Path
) -> None:
    first, second = start(visible="1,2"), start(visible="2,1")
    had = [device_of(first), device_of(second)]
    assert sorted(had) == ["1", "2"]
    third = start(visible="1,2")
    assert waits(tmp_path, third).endswith("waits for 1 of the GPUs 1,2: other jobs have them")
    other = start(visible="0")  # which is none of those that are waited for
    assert device_of(other) == "0"
    second.kill()  # SIGKILL: nothing of the job's own lets its device go
    assert device_of(third) == had[1]


def test_a_device_is_one_by_whatever_name_a_job_knows_it(start, tmp_path: Path) -> None:
    """Under a cluster manager each job may see its own device as 0."""
    by_manager = [start(uuids=[uuid], visible="0") for uuid in ("aa", "bb")]
    assert [device_of(process) for process in by_manager] == ["0", "0"]
    assert device_of(start()) == "2"


def test_two_jobs_of_two_devices_each_do_not_wait_for_each_other(start) -> None:
    jobs = [start(count=2, seconds=0.3) for _ in range(4)]
    for process in jobs:
        said, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert said == "0,1\n"


def test_a_waiting_job_that_is_told_to_end_goes_at_once(start, tmp_path: Path) -> None:
    holder = start(uuids=["aa"])
    assert device_of(holder) == "0"
    waiting = start(uuids=["aa"])
    waits(tmp_path, waiting)
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(timeout=20) == 143


def test_a_job_that_asked_for_none_or_is_given_none_sees_none(start) -> None:
    assert device_of(start(count=0, seconds=0)) == ""
    assert device_of(start(uuids=[], visible="", seconds=0)) == ""
    assert device_of(start(uuids=[], seconds=0)) == "None"  # no CUDA here: left as it is


def test_more_devices_than_there_are_is_one_line(start) -> None:
    process = start(count=3, visible="0,1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert (
        "error in made: gpu: 3 are asked for, and CUDA sees 2 (CUDA_VISIBLE_DEVICES is '0,1')"
        in line
    )


def test_names_are_kept_as_they_are(monkeypatch) -> None:
    known = {
        "0": "aa", "3": "dd", "GPU-dd0f": "dd", "MIG-0f": "0f", "MIG-1f": "1f",
        "MIG-GPU-dd0f/1/0": "2f", None: None,
    }  # fmt: skip

    def uuids_of(named):
        """As CUDA does: a wrong name ends the list, and of parts of GPUs one is shown."""
        if named is None:
            return ["aa", "dd"]
        found = []
        for name in named.split(","):
            if name.strip() not in known or "MIG" in "".join(found):
                break
            found.append(known[name.strip()])
            if name.startswith("MIG"):
                break
        return found

    monkeypatch.setattr(gpus, "uuids_of", uuids_of)
    for named, found in {
        None: [("0", "aa"), ("1", "dd")],
        "": [],
        "-1": [],
        "3": [("3", "dd")],
        "3, 0": [("3", "dd"), ("0", "aa")],
        "GPU-dd0f,0": [("GPU-dd0f", "dd"), ("0", "aa")],
        "0,7,3": [("0", "aa")],
        "MIG-1f": [("MIG-1f", "1f")],
        "MIG-1f,MIG-0f": [("MIG-1f", "1f"), ("MIG-0f", "0f")],
        "MIG-GPU-dd0f/1/0,MIG-9f": [("MIG-GPU-dd0f/1/0", "2f")],
    }.items():
        assert gpus.visible(named) == found, named


def test_a_folder_of_locks_that_another_made_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(gpus, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(gpus, "uuids_of", lambda named: ["aa"])
    before = os.environ.get(gpus.VISIBLE)
    with pytest.raises(UserError, match="should be a folder of this user's own"), gpus.taken(1):
        pass
    assert os.environ.get(gpus.VISIBLE) == before


# A driver of three devices, which reads the variable when it is begun with, as CUDA does.
DRIVER = """
#include <stdlib.h>
#include <string.h>
static int count = -1, order[3];
int cuInit(unsigned flags) {
    const char *named = getenv("CUDA_VISIBLE_DEVICES");
    if (!named) named = "0,1,2";
    count = 0;
    for (; *named; named++)
        if (*named != ',') {
            if (*named < '0' || *named > '2') break;
            order[count++] = *named - '0';
        }
    return count ? 0 : 100;
}
int cuDeviceGetCount(int *found) { *found = count; return count < 0 ? 3 : 0; }
int cuDeviceGet(int *device, int ordinal) { *device = order[ordinal]; return 0; }
int cuDeviceGetUuid_v2(unsigned char uuid[16], int device) {
    for (int place = 0; place < 16; place++) uuid[place] = 16 * device + place;
    return 0;
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler, to pretend a driver")
def test_the_driver_is_asked_by_a_process_of_its_own(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    build = ["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "driver.c")]
    subprocess.run(build, check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    zero, two = "00010203-0405-0607-0809-0a0b0c0d0e0f", "20212223-2425-2627-2829-2a2b2c2d2e2f"
    assert gpus.uuids_of("2,0") == [two, zero]
    assert len(gpus.uuids_of(None)) == 3
    assert gpus.uuids_of("0,x,2") == [zero]
    assert gpus.uuids_of("") == []


def test_without_a_driver_there_is_no_device(monkeypatch) -> None:
    monkeypatch.setattr(gpus.cuda_uuids, "DRIVER", "libno_such_driver.so.1")
    assert list(gpus.cuda_uuids.uuids()) == []
