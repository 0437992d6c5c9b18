"""A study on a Slurm of this machine, whose jobs, controller and node are killed at random: nothing is lost.

    bash tests/slurm/cluster.sh install             # once, as root
    python benchmarks/chaos_slurm.py FOLDER --kills 20 --seed 19

The tiny study of the tests is run without it first (once a FOLDER), then a part of it by Slurm. A command
that ends early is given again. Checkpoints are due at each point, so that there are many.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from clusters import Slurm, heed_interrupts, processes_of_jobs, scripts, until  # noqa: E402
from snake import incomplete, made_files  # noqa: E402
from workflow import environment, prepare, run  # noqa: E402

# Made by Slurm unless more is asked for: rows of a model, a dictionary of them, its numbers.
UNMADE = [
    "activations/dense/seed-0/validation", "activations/dense/seed-0/validation.json",
    "dictionaries/moe-dense",
]  # fmt: skip
SOONEST, LATEST = 1.0, 10.0  # seconds from one kill to the next
FORGOTTEN = 60.0  # seconds without any job in the queue: Slurm has forgotten what is waited for
DOWN = 4.0  # at most so many seconds what was killed is away


class Chaos:
    def __init__(self, folder: Path, slurm: Slurm, seed: int) -> None:
        self.folder, self.slurm, self.random = folder, slurm, np.random.default_rng(seed)
        self.journal = folder / "journal"
        self.kills: Counter[str] = Counter()
        self.commands = self.interrupted = self.mended = 0
        self.done: dict[str, int] = {}  # outputs of jobs that Snakemake has seen end -> inode
        self.again: set[str] = set()  # those of them that were made again

    def start(self) -> subprocess.Popen:
        self.commands += 1
        options = ["--set-threads", *(f"{rule}=1" for rule in ("train", "fit", "metrics"))]
        options += [
            "--slurm-init-seconds-before-status-checks",
            "1",
            "--slurm-keep-successful-logs",
        ]
        spied = {
            "PYTHONPATH": f"{ROOT / 'tests/spy'}{os.pathsep}{ROOT / 'scripts'}",
            "MOEDIFF_JOURNAL": str(self.journal),
        }
        with open(self.folder / "run.log", "a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--workflow-profile",
                 "slurm", *options, "--configfile", str(self.folder / "config.yaml"), "--",
                 "results/fve.json"],
                cwd=self.folder, env=environment() | spied, stdout=log, stderr=log,
                preexec_fn=heed_interrupts,
            )  # fmt: skip

    def look(self) -> None:
        """Whether what was done is still what it was."""
        there = {name: (self.folder / name).stat().st_ino for name in made_files(self.folder)}
        for name in incomplete(self.folder):
            there.pop(name, None)
        self.again |= {name for name, inode in self.done.items() if there.get(name, inode) != inode}
        self.done |= there

    def kill(self) -> None:
        """One thing of those that may be killed."""
        kinds: dict[str, Callable[[], None]] = {
            "job": self.kill_job,
            "controller": self.kill_controller,
            "slurmd": self.kill_slurmd,
            "node": self.kill_node,
        }
        kind = str(self.random.choice(list(kinds)))
        kinds[kind]()
        self.kills[kind] += 1

    def kill_job(self) -> None:
        """A script, or where none runs yet a process that is to start one."""
        working = sorted(script.pid for script in scripts(self.folder)) or processes_of_jobs()
        if working:  # it may have ended by now
            with suppress(ProcessLookupError):
                os.kill(working[int(self.random.integers(len(working)))], signal.SIGKILL)

    def kill_controller(self) -> None:
        self.slurm.kill_controller()
        time.sleep(self.random.uniform(0, DOWN))
        self.slurm.start_controller()

    def kill_slurmd(self) -> None:
        self.slurm.kill("slurmd")
        time.sleep(self.random.uniform(0, DOWN))
        self.slurm.start_node()

    def kill_node(self) -> None:
        """With all of its jobs. It is back once it was missed: before, Slurm may wait minutes for them."""
        self.slurm.lose_node()

    def steps(self) -> dict[str, list[int]]:
        """Steps saved by each job, in the order of saving."""
        found = defaultdict(list)
        for line in self.journal.read_text().splitlines():
            folder, step = line.split()
            found[folder].append(int(step))
        return found

    def through(self, kills: int) -> None:
        """Run the study to its end, with so many kills on the way."""
        process, seen = self.start(), time.monotonic()
        while True:
            wait = time.monotonic() + self.random.uniform(SOONEST, LATEST)
            while process.poll() is None and (
                sum(self.kills.values()) == kills
                or time.monotonic() < wait
                or not processes_of_jobs()
            ):
                self.mended += self.slurm.mend()
                if processes_of_jobs() or self.slurm.queue():
                    seen = time.monotonic()
                elif time.monotonic() > seen + FORGOTTEN:  # as docs/faults.md says
                    self.interrupted += 1
                    process.send_signal(signal.SIGINT)
                    process.wait(60)
                time.sleep(0.5)
            if process.poll() is None:
                self.look()
                self.kill()
                print(f"{sum(self.kills.values())}: {dict(self.kills)}", flush=True)
            elif process.returncode == 0:
                return
            else:
                ended = subprocess.run(["squeue", "-h", "-o", "%i"], capture_output=True, text=True)
                until(
                    lambda: not ask("squeue", "-h"), 300, f"the end of jobs {ended.stdout.split()}"
                )
                process, seen = self.start(), time.monotonic()


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=19)
    parser.add_argument("--part", nargs="+", default=UNMADE, help="of results, to be made by Slurm")
    options = parser.parse_args()
    even, folder = (options.folder.resolve() / name for name in ("even", f"chaos-{options.seed}"))
    if not (even / "results/fve.json").exists():
        made = run(even if even.exists() else prepare(even), "results/fve.json")
        assert made.returncode == 0, made.stderr
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(even, folder, symlinks=True)
    for name in (*options.part, "state", "fve.json"):
        path = folder / "results" / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    cluster = options.folder.resolve() / f"slurm-{options.seed}"
    shutil.rmtree(cluster, ignore_errors=True)
    cluster.mkdir()
    slurm, began = Slurm(cluster), time.monotonic()
    try:
        slurm.up()
        chaos = Chaos(folder, slurm, options.seed)
        chaos.look()
        chaos.through(options.kills)
        chaos.look()
        jobs = ask("scontrol", "show", "job", "-o").splitlines()
    finally:
        slurm.down()
    names = made_files(even)
    assert made_files(folder) == names
    other = [name for name in names if (folder / name).read_bytes() != (even / name).read_bytes()]
    states = Counter(re.search(r"JobState=(\w+)", job)[1] for job in jobs)
    restarts = sum(int(re.search(r"Restarts=(\d+)", job)[1]) for job in jobs)
    saved = chaos.steps()
    twice = sum(next <= one for steps in saved.values() for one, next in pairwise(steps))
    print(
        f"{sum(chaos.kills.values())} kills {dict(chaos.kills)}, {chaos.commands} commands, "
        f"{chaos.interrupted} ended by Ctrl-C since Slurm had forgotten a job, "
        f"{chaos.mended} times a drained node or a held job set free, "
        f"{time.monotonic() - began:.0f} s; {len(jobs)} jobs {dict(states)}, {restarts} put back into the "
        f"queue; {sum(map(len, saved.values()))} steps saved by {len(saved)} jobs, {twice} of them twice; "
        f"{len(chaos.again)} finished files made again; {len(other)} of {len(names)} files differ"
    )
    sys.exit(bool(twice or chaos.again or other))


if __name__ == "__main__":
    main()
