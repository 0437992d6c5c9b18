"""What Snakemake's own log says of a run: steps done, jobs begun and failed, whether it came to its end."""

from __future__ import annotations

import re
from pathlib import Path

BEGUN, FAILED = "begun", "failed"
BLOCK = 1 << 22  # bytes that are read at once
LAST = 8  # runs that are looked through for one of these results
_BEGINS = re.compile(r"(?:local)?rule \S+:")
_FAILS = re.compile(r"Error in rule \S+:")
_LOG = re.compile(r"    log: (.+?)(?: \(check log file\(s\) for error details\))?")
_ID = re.compile(r"    jobid: (\d+)")
_AGAIN = re.compile(r"Trying to restart job (\d+)\.")
_FINISHED = re.compile(r"Finished jobid: (\d+) ")
_PLANNED = re.compile(r"total +(\d+)")  # at the foot of the plan's table
_STEPS = re.compile(r"(\d+) of (\d+) steps ")
_CLOSED = "Complete log(s): "


class RunLog:
    """The log of one run of Snakemake, read on as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: tuple[int, int] | None = None  # done, of all
        self.jobs: dict[str, str] = {}  # log of a job as its rule names it -> BEGUN or FAILED
        self.closed = False  # the run came to its end, good or bad
        self.first = ""  # log of the first job: all jobs of a run have one results folder
        self._read, self._cut = 0, b""
        self._failing, self._log = False, ""
        self._logs: dict[str, str] = {}  # number of a job -> its log

    def read_on(self) -> None:
        """Take in what was written since the last time."""
        with open(self.path, "rb") as file:
            file.seek(self._read)
            while block := file.read(BLOCK):
                self._read += len(block)
                *lines, self._cut = (self._cut + block).split(b"\n")
                for line in lines:
                    self._take(line.decode("utf-8", "replace"))

    def _take(self, line: str) -> None:
        if _BEGINS.fullmatch(line) or _FAILS.fullmatch(line):
            self._failing, self._log = line.startswith("Error"), ""
        elif match := _LOG.fullmatch(line):
            self._log = match[1]
        elif match := _ID.fullmatch(line):
            # A job that begins names its log before its number, one that fails after it.
            self._job(match[1])
        elif (match := _AGAIN.match(line)) and match[1] in self._logs:
            self.jobs[self._logs[match[1]]] = BEGUN
        elif match := _FINISHED.match(line):
            self.jobs.pop(self._logs.pop(match[1], ""), None)
        elif match := _PLANNED.fullmatch(line):
            self.steps = 0, int(match[1])
        elif match := _STEPS.match(line):
            self.steps = int(match[1]), int(match[2])
        elif line.startswith(_CLOSED):
            self.closed = True

    def _job(self, number: str) -> None:
        if self._failing and number in self._logs:
            self.jobs[self._logs[number]] = FAILED
        elif not self._failing and self._log:
            self.first = self.first or self._log
            self._logs[number] = self._log
            self.jobs[self._log] = BEGUN


def newest(state: Path, known: dict[Path, RunLog], logs: Path) -> RunLog | None:
    """Of the last few runs the newest that has begun a job whose log lies below `logs`; None without one.

    `state` is Snakemake's folder in the working folder; `known` are logs read before, which are read on.
    """
    paths = sorted((state / "log").glob("*.snakemake.log"), reverse=True)
    for path in paths[:LAST]:
        run = known.setdefault(path, RunLog(path))
        try:
            run.read_on()
        except OSError:
            continue
        if run.first and (state.parent / run.first).resolve().is_relative_to(logs):
            return run
    return None


def locked(state: Path) -> bool:
    """Whether a run holds Snakemake's lock, or was killed and left it.

    Where notes are kept in a database the lock lies in it, which is not opened from here: then as if held.
    """
    try:
        return any((state / "locks").iterdir())
    except OSError:
        return (state / "metadata.db").exists()
