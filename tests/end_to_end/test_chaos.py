"""Whole runs, corpus to report, killed at random instants again and again: the same bytes, nothing twice.

$MOEDIFF_KILLS says how many kills, over as many runs as that takes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter, defaultdict
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import yaml

from snake import incomplete, made_files
from workflow import ROOT, TINY, command, environment, prepare

KILLS = int(os.environ.get("MOEDIFF_KILLS", "3"))
KINDS = ("all", "snakemake", "job")  # what a kill ends: all processes, Snakemake alone, one job
SOONEST = 2  # seconds until a kill; at most it comes after a third of a run
# As little as has every stage: two models, a crosscoder, its measures, plots and the page.
STUDY = TINY | {
    "corpus": TINY["corpus"] | {"tokens": {"train": 8_000, "fit": 12_000, "validation": 4_000}},
    "shards_per_job": 2,
    "training": TINY["training"] | {"peak_lr": 3.0e-3},
    "comparisons": {"moe-dense": TINY["comparisons"]["moe-dense"]},
}
TARGETS = ["results/fve.json", "results/report.html"]


class Mark(NamedTuple):
    """By which a file is known to be the one that was there."""

    inode: int
    changed: int


class Chaos:
    """A study that is run and killed, and what was seen of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        (folder / "config.yaml").write_text(yaml.safe_dump(STUDY))
        self.environment = environment() | {
            "PYTHONPATH": f"{ROOT / 'tests/spy'}{os.pathsep}{ROOT / 'scripts'}",
            "MOEDIFF_JOURNAL": str(self.journal),
        }
        self.wanted: dict[str, bytes] = {}
        self.takes = 0.0  # seconds, by a run that nothing kills
        self.done: dict[str, Mark] = {}  # files of jobs that Snakemake has seen end
        self.seen: Counter[str] = Counter()

    def start(self) -> subprocess.Popen:
        config = str(self.folder / "config.yaml")
        return subprocess.Popen(
            command(self.folder, *TARGETS, "--configfile", config), env=self.environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def run_evenly(self) -> None:
        """What nothing kills makes the files that are wanted."""
        began = time.monotonic()
        process = self.start()
        _, said = process.communicate()
        assert process.returncode == 0, said
        self.takes = time.monotonic() - began
        self.wanted = {name: (self.folder / name).read_bytes() for name in made_files(self.folder)}
        self.anew()

    def anew(self) -> None:
        """Nothing of a run is left."""
        shutil.rmtree(self.folder / "results", ignore_errors=True)
        shutil.rmtree(self.folder / ".snakemake", ignore_errors=True)
        self.journal.unlink(missing_ok=True)
        self.done = {}

    def look(self) -> None:
        """At what is there, no process being alive: whole files only, and those that were done untouched."""
        there = {}
        for name in made_files(self.folder):
            path = self.folder / name
            assert path.read_bytes() == self.wanted[name], name
            about = path.stat()
            there[name] = Mark(about.st_ino, about.st_mtime_ns)
        for name, mark in self.done.items():
            assert there.get(name) == mark, f"{name}: was done, and is gone or was made again"
        begun = incomplete(self.folder)
        self.seen["whole files of jobs that were not seen to end"] += len(begun & there.keys())
        self.done = {name: mark for name, mark in there.items() if name not in begun}
        for steps in self.steps().values():
            assert all(one < next for one, next in pairwise(steps)), "a step was saved twice"

    def steps(self) -> dict[str, list[int]]:
        """Steps saved by each job, in the order of saving."""
        found = defaultdict(list)
        if self.journal.exists():
            for line in self.journal.read_text().splitlines():
                folder, step = line.split()
                found[folder].append(int(step))
        return found

    def kill(self, process: subprocess.Popen, kind: str, random: np.random.Generator) -> None:
        """End a run, or a part of it, and wait for the rest."""
        jobs = scripts_of(process)
        if kind == "job" and jobs:
            kill(jobs[random.integers(len(jobs))])
            self.seen["jobs killed"] += 1
            process.communicate()  # it waits for its other job
            assert process.returncode != 0
            return
        process.kill()
        if kind == "all":
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            self.seen["all killed"] += 1
        else:
            for job in jobs:  # they live on; the page on faults says: wait for them, or
                with suppress(psutil.NoSuchProcess):
                    job.terminate()
            self.seen["Snakemake killed alone"] += 1
        assert not psutil.wait_procs(jobs, timeout=60)[1]
        process.communicate()

    def unlock(self, said: str) -> None:
        """Run the command that a line names where a killed run left its lock."""
        told = re.search(r"then run the same command again: (.*)", said)
        assert told is not None, said
        subprocess.run(
            told[1], shell=True, cwd=self.folder, env=self.environment, check=True,
            capture_output=True,
        )  # fmt: skip


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def scripts_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Processes of a run's scripts."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if re.search(r"\.snakemake/scripts/[^/]+\.py$", child.cmdline()[-1]):
                    found.append(child)
    return found


@pytest.mark.slow
def test_whole_runs_killed_at_random_end_with_the_same_bytes_and_make_nothing_twice(
    tmp_path: Path,
) -> None:
    chaos, random = Chaos(prepare(tmp_path / "study")), np.random.default_rng(19)
    chaos.run_evenly()
    kills = runs = 0
    while True:
        process = chaos.start()
        if kills < KILLS:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=float(random.uniform(SOONEST, chaos.takes / 3)))
            if process.poll() is None:
                chaos.kill(process, KINDS[random.choice(len(KINDS))], random)
                kills += 1
                chaos.look()
                continue
        _, said = process.communicate()
        if process.returncode:
            chaos.unlock(said)
            continue
        chaos.look()
        assert chaos.done.keys() == chaos.wanted.keys()
        runs += 1
        if kills == KILLS:
            break
        chaos.anew()
    print(f"{kills} kills, {runs} runs, {chaos.takes:.0f} s without one; {dict(chaos.seen)}")
    assert sum(map(len, chaos.steps().values())) > 0
