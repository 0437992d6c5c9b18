"""A Slurm of this machine, the scripts that its jobs run, and what may happen to either."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from workflow import ROOT

CLUSTER, NAME = ROOT / "tests/slurm/cluster.sh", "pretended"


def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def _environment(process: Path) -> dict[str, str]:
    lines = (process / "environ").read_bytes().decode(errors="replace").split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


@dataclass(frozen=True)
class Script:
    """The process of a rule's script, somewhere in a job."""

    pid: int
    name: str
    environment: dict[str, str]

    @property
    def job(self) -> str:
        return self.environment["SLURM_JOB_ID"]

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def has_ended(self) -> bool:
        return not Path(f"/proc/{self.pid}").exists()


def scripts(folder: Path) -> Iterator[Script]:
    """Those that run in a working folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            command = (process / "cmdline").read_bytes()
            name = re.search(rb"\.snakemake/scripts/tmp\w+\.(\w+)\.py", command)
            if name and (process / "cwd").resolve() == folder:
                yield Script(int(process.name), name[1].decode(), _environment(process))


def processes_of_jobs() -> list[int]:
    """Of the Slurm that `cluster.sh` brings up, without the daemons that start them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if _environment(process).get("SLURM_CLUSTER_NAME") == NAME:
                found.append(int(process.name))
    return sorted(found)


def heed_interrupts() -> None:
    """Before a command starts: Ctrl-C ends it, also where that is ignored by what started the tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Slurm:
    """`cluster.sh`, which was brought up in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _do(self, word: str) -> None:
        done = subprocess.run(
            [CLUSTER, word, self.folder], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def up(self) -> None:
        self._do("up")

    def down(self) -> None:
        self._do("down")

    def kill(self, daemon: str) -> None:
        pid = int((self.folder / f"{daemon}.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), 10, f"the end of {daemon}")

    def kill_controller(self) -> None:
        self.kill("slurmctld")

    def start_controller(self) -> None:
        self._do("controller")

    def forget_jobs(self) -> None:
        """The controller dies before it has written down what was submitted, and its node with it."""
        self.kill_controller()
        self.kill_node()
        # Numbers of jobs begin anew, and slurmd knows those that it has ended.
        for kept in (
            *(self.folder / "state").glob("job_state*"),
            *self.folder.glob("**/cred_state*"),
        ):
            kept.unlink()
        self.start_controller()
        self.start_node()
        assert not self.queue()

    def queue(self) -> list[str]:
        """Numbers of the jobs that wait or run."""
        return self._ask("squeue", "-h", "-o", "%i").split()

    def mend(self) -> bool:
        """What an administrator does where a controller was killed as it started a job, and starts it again.

        slurmd knows that job (`Duplicate jobid`): the node is drained, the job held. Says whether there was
        need.
        """
        drained = "drain" in self._ask("sinfo", "-h", "-o", "%T")
        waiting = self._ask("squeue", "-h", "-t", "PD", "-o", "%i %r").splitlines()
        held = [line.split()[0] for line in waiting if "held" in line]
        for job in held:
            subprocess.run(["scontrol", "release", job], check=False)
        if drained:
            subprocess.run(["scontrol", "update", "NodeName=ALL", "State=RESUME"], check=False)
        return bool(drained or held)

    def kill_node(self) -> None:
        """slurmd, and all of every job on it: as where the power goes."""
        self.kill("slurmd")
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "cmdline").read_bytes().startswith(b"slurmstepd: ["):
                    os.kill(int(process.name), signal.SIGKILL)
        for pid in processes_of_jobs():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def lose_node(self) -> None:
        """As `kill_node`, until the controller has missed it; then it comes back."""
        self.kill_node()
        until(lambda: self._ask("sinfo", "-h", "-o", "%t").startswith("down"), 90, "a lost node")
        self._do("node")

    def start_node(self) -> None:
        self._do("node")

    def shorten(self, job: str) -> None:
        """Let a job's time end within two minutes, and not before it could leave once it is told to."""
        minutes, seconds = map(
            int, self._ask("squeue", "-h", "-j", job, "-o", "%M").split(":")[-2:]
        )
        left = 1 if seconds < 15 else 2
        subprocess.run(
            ["scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + left}"], check=True
        )

    @staticmethod
    def _ask(*command: str) -> str:
        return subprocess.check_output(command, text=True).strip()
