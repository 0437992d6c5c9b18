#!/usr/bin/env python3
"""Say what became of a job of the scheduler that this machine has: running, success or failed.

    status.py JOB

Slurm, LSF, SGE and PBS (also Torque) are told apart by their commands. A word that is not known means
running, and so does a scheduler that gives no answer: from silence follows nothing, and a job that is given
up while it runs would write beside the next try. A job that the scheduler says it does not know has ended;
where no record tells how, it failed, but not before GRACE seconds, since records come late.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

GRACE = 300
MISSED = Path(
    ".snakemake/missed_jobs"
)  # of each job that was not known a file, as old as the first time

# Scheduler -> the command that only it has, questions in turn, what an answer says of a job that ended well,
# and of any other that ended. What says neither is of one that runs or waits. The first question whose
# answer knows the job decides.
SCHEDULERS = {
    "slurm": (
        "scontrol",
        ["scontrol show job -o {job}", "sacct -nXP -o State -j {job}"],
        r"(^| JobState=)COMPLETED\b",
        r"(^| JobState=)(BOOT_FAIL|CANCELLED|DEADLINE|FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|TIMEOUT)\b",
    ),
    "lsf": ("bjobs", ["bjobs -a -noheader -o stat {job}"], r"^DONE\b", r"^EXIT\b"),
    "sge": (
        "qacct",
        ["qstat -j {job}", "qacct -j {job}"],
        r"(?s)^failed +0\b.*^exit_status +0\b",
        r"^exit_status ",
    ),
    "pbs": (
        "qstat",
        ["qstat -x -f {job}", "qstat -f {job}"],
        r"(?i)\bexit_status( = |>)0\b",
        r"(?i)\bexit_status( = |>)|\bjob_state( = |>)[FC]\b",
    ),
}
NOT_KNOWN = re.compile(r"(?i)invalid job id|unknown job|not found|do(es)? not exist|has finished")


def state(scheduler: str, answer: str) -> str:
    """What an answer about a job that is known says."""
    _, _, success, ended = SCHEDULERS[scheduler]
    if re.search(success, answer, re.MULTILINE):
        return "success"
    return "failed" if re.search(ended, answer, re.MULTILINE) else "running"


def ask(scheduler: str, job: str) -> str | None:
    """What the scheduler says of a job; None where it says that it knows no such job."""
    not_known = False
    for question in SCHEDULERS[scheduler][1]:
        command = question.format(job=job).split()
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return state(scheduler, done.stdout)
        not_known = not_known or bool(NOT_KNOWN.search(done.stderr))
    return None if not_known else "running"


def given_up(job: str) -> bool:
    """Whether a job has not been known for GRACE seconds."""
    first = MISSED / job
    if not first.exists():
        MISSED.mkdir(parents=True, exist_ok=True)
        first.touch()
    return time.time() - first.stat().st_mtime > GRACE


def main(job: str) -> str:
    here = [name for name, (command, *_) in SCHEDULERS.items() if shutil.which(command)]
    if not here:
        sys.exit("status.py: no scontrol, bjobs, qacct or qstat on the PATH")
    return ask(here[0], job) or ("failed" if given_up(job) else "running")


if __name__ == "__main__":
    print(main(re.search(r"\d[\w.\[\]-]*", sys.argv[1]).group()))
