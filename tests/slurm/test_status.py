"""What profiles/generic/status.py makes of the answers of schedulers."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from workflow import ROOT

STATUS = ROOT / "profiles/generic/status.py"
KNOWN = [
    ("slurm", "JobId=5 JobName=failed Requeue=1 JobState=RUNNING Reason=None", "running"),
    ("slurm", "JobId=5 JobName=x JobState=COMPLETED Reason=None", "success"),
    ("slurm", "JobId=5 JobName=COMPLETED JobState=OUT_OF_MEMORY Reason=OutOfMemory", "failed"),
    ("slurm", "JobId=5 JobName=x JobState=COMPLETING Reason=None", "running"),
    ("slurm", "JobId=5 JobName=x JobState=NEW_IN_25 Reason=None", "running"),
    ("slurm", "CANCELLED by 0\n", "failed"),
    ("lsf", "PEND\n", "running"),
    ("lsf", "UNKWN\n", "running"),
    ("lsf", "DONE\n", "success"),
    ("lsf", "EXIT\n", "failed"),
    ("sge", "job_number:   5\njob_name:   fit\nhard resource_list:  h_rt=60\n", "running"),
    ("sge", "failed       0    \nexit_status  0                   \n", "success"),
    ("sge", "failed       0    \nexit_status  1                   \n", "failed"),
    ("sge", "failed       37  : qmaster enforced h_rt\nexit_status  0    \n", "failed"),
    ("pbs", "Job Id: 5.host\n    Job_Name = fit\n    job_state = Q\n", "running"),
    ("pbs", "Job Id: 5.host\n    job_state = F\n    Exit_status = 0\n", "success"),
    ("pbs", "Job Id: 5.host\n    job_state = F\n    Exit_status = 271\n", "failed"),
    ("pbs", "Job Id: 5.host\n    job_state = F\n    substate = 91\n", "failed"),
    ("pbs", "<job_state>C</job_state><exit_status>0</exit_status>", "success"),
    ("pbs", "<job_state>C</job_state><exit_status>-11</exit_status>", "failed"),
]  # fmt: skip


@pytest.mark.parametrize(("scheduler", "answer", "state"), KNOWN)
def test_answers_of_schedulers_are_read(scheduler: str, answer: str, state: str) -> None:
    assert runpy.run_path(str(STATUS))["state"](scheduler, answer) == state


def asked(folder: Path, job: str, **commands: str) -> subprocess.CompletedProcess:
    """Run the script where the scheduler's commands, and no other, are these shell scripts."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, body in commands.items():
        command = folder / "bin" / name
        command.write_text(f"#!/bin/sh\n{body}\n")
        command.chmod(0o755)
    return subprocess.run(
        [sys.executable, STATUS, job], cwd=folder, env={"PATH": str(folder / "bin")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_scheduler_without_an_answer_is_waited_for(tmp_path: Path) -> None:
    silent = 'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1'
    for _ in range(2):
        assert asked(tmp_path, "5", scontrol=silent, sacct="exit 1").stdout == "running\n"
    assert not (tmp_path / ".snakemake").exists()


def test_a_job_that_is_not_known_has_failed_after_a_while(tmp_path: Path) -> None:
    gone = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'
    commands = {"scontrol": gone, "sacct": 'echo "accounting storage is disabled" >&2; exit 1'}
    assert asked(tmp_path, "5", **commands).stdout == "running\n"
    missed = tmp_path / ".snakemake/missed_jobs/5"
    os.utime(missed, (0, missed.stat().st_mtime - 301))
    assert asked(tmp_path, "5", **commands).stdout == "failed\n"
    assert asked(tmp_path, "6", **commands).stdout == "running\n"


def test_the_record_of_a_job_that_left_the_queue_is_asked(tmp_path: Path) -> None:
    gone = 'echo "Following jobs do not exist: $2" >&2; exit 1'
    record = 'test "$2" = 7 && printf "failed 0\\nexit_status 0\\n"'
    assert asked(tmp_path, "7", qstat=gone, qacct=record).stdout == "success\n"


def test_a_machine_without_a_scheduler_is_one_line(tmp_path: Path) -> None:
    found = asked(tmp_path, "5")
    assert found.returncode == 1
    assert found.stderr == "status.py: no scontrol, bjobs, qacct or qstat on the PATH\n"
