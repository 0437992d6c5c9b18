"""How far every job of a results folder is, by the files that it leaves, from wherever one looks.

Nothing is asked of a process: jobs may run on any machine that has the disk. What files cannot tell is said
with `STATES`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moediff.config import layout, made_in
from moediff.core import artifact, job_log
from moediff.core.errors import UserError
from moediff.report import run_log

TAIL = 1 << 16  # bytes of a log that are read: some hours of lines
NO_BENCHMARK = {"clean_state"}  # what has none, and so would never be finished
SILENT_AFTER = 300.0  # seconds without a line; long work speaks every 20

RUNNING, SILENT, WAITING = "running", "silent", "waiting"
FAILED, TOLD, KILLED, FINISHED = "failed", "told to end", "killed", "finished"
STATES = {
    RUNNING: "its log has no end, and its run goes on",
    SILENT: "the same, without a line for minutes: work that says nothing, or a job killed unseen",
    WAITING: "begun by Snakemake, no log yet: in a queue, or still starting",
    FAILED: "its log says why",
    TOLD: "it was told to end, and the same command goes on",
    KILLED: "its log has no end, and its run is over or has given it up",
    FINISHED: "its benchmark is written",
}
# Of a run as a whole; `stopped` is without an end and without a lock (killed and unlocked, or run with
# --nolock), and one that was killed and has left its lock looks as if it ran.
GOES_ON, OVER, STOPPED, UNKNOWN = "running", "over", "stopped", "unknown"


@dataclass(frozen=True)
class Job:
    """One job that is not finished."""

    name: str  # of its log: the rule and its wildcards
    state: str
    silent: float | None  # seconds since its last line
    told: job_log.Told

    @property
    def left(self) -> float | None:
        """Seconds that the work which it is at will take, at its rate so far."""
        count, rate = self.told.count, self.told.rate
        return (count.total - count.done) / rate if count and rate else None


@dataclass(frozen=True)
class Look:
    """What one look at a results folder found."""

    run: str
    steps: tuple[int, int] | None  # of the newest run: done, of all
    jobs: list[Job]  # not finished; those that run first
    finished: int  # jobs, of all runs
    ahead: float  # seconds by which a log was written in this machine's future

    def counts(self) -> dict[str, int]:
        """Jobs in each state."""
        counts = dict.fromkeys(STATES, 0) | {FINISHED: self.finished}
        for job in self.jobs:
            counts[job.state] += 1
        return counts

    def facts(self, now: float) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {
            "at": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
            "run": self.run,
            "steps": dict(zip(("done", "of"), self.steps, strict=True)) if self.steps else None,
            "counts": self.counts(),
            "jobs": [_facts(job) for job in self.jobs],
        }


def _facts(job: Job) -> dict[str, Any]:
    count = job.told.count
    return {
        "name": job.name,
        "state": job.state,
        "work": count and count.name,
        "done": count and count.done,
        "of": count and count.total,
        "unit": count and count.unit,
        "per_second": job.told.rate and float(f"{job.told.rate:.4g}"),
        "seconds_left": None if job.left is None else round(job.left),
        "seconds_silent": None if job.silent is None else round(job.silent),
        "says": job.told.error or job.told.last,
    }


class Watched:
    """A results folder, looked at again and again; it remembers when a log was seen to grow.

    Raises UserError where there is no such folder.
    """

    def __init__(self, results: Path) -> None:
        if not results.is_dir():
            raise UserError(f"{results}: no such folder; name the results of a run, or its config")
        self.results = results.resolve()
        log = self.results / layout.path("log", job="*")
        self.logs, self.ending = log.parent, log.suffix
        self.runs: dict[Path, run_log.RunLog] = {}
        # Job -> when its log was last written, in nanoseconds of the disk's clock: of jobs that are finished,
        # and of the others with the instant in which it was seen here.
        self.finished: dict[str, int] = {}
        self.seen: dict[str, tuple[int, float]] = {}

    def look(self) -> Look:
        """All that is there now."""
        state = self._state()
        run = run_log.newest(state, self.runs, self.logs) if state else None
        goes_on = _goes_on(state, run)
        given = (
            {self._name(state.parent / log): how for log, how in run.jobs.items()}
            if run and state
            else {}
        )
        jobs, finished, ahead = [], 0, 0.0
        for name, path in self._logs():
            try:
                written = path.stat().st_mtime_ns
                if name in NO_BENCHMARK or self._is_finished(name, written):
                    finished += name not in NO_BENCHMARK
                    continue
                told = job_log.read(_tail(path))
            except FileNotFoundError:  # of a job that begins anew
                continue
            finally:
                how = given.pop(name, None)
            silent = self._silent(name, written)
            ahead = max(ahead, written / 1e9 - time.time())
            jobs.append(Job(name, _state_of(told, silent, goes_on, how), silent, told))
        if goes_on == GOES_ON:
            waiting = (name for name, how in given.items() if how == run_log.BEGUN)
            jobs += [Job(name, WAITING, None, job_log.Told()) for name in waiting]
        order = list(STATES)
        jobs.sort(key=lambda job: (order.index(job.state), job.name))
        return Look(goes_on, run.steps if run else None, jobs, finished, ahead)

    def _state(self) -> Path | None:
        """Snakemake's folder, in the working folder that the results say they were made in."""
        try:
            home = self.results / artifact.read_json(self.results / made_in.MARK)["folder"]
        except (OSError, UserError):
            return None
        state = home.resolve() / ".snakemake"
        return state if state.is_dir() else None

    def _name(self, log: Path) -> str:
        """A job's name, from where its log lies."""
        return os.path.relpath(os.path.realpath(log), self.logs).removesuffix(self.ending)

    def _logs(self) -> Iterator[tuple[str, Path]]:
        """Every job's name and its log."""
        for folder, _, files in os.walk(self.logs):
            inner = os.path.relpath(folder, self.logs)
            for file in files:
                if file.endswith(self.ending):
                    name = os.path.normpath(os.path.join(inner, file)).removesuffix(self.ending)
                    yield name, Path(folder, file)

    def _is_finished(self, name: str, written: int) -> bool:
        """Whether a job ended well after its log was last written: Snakemake then writes its benchmark."""
        if self.finished.get(name) == written:
            return True
        try:
            ended = (self.results / layout.path("benchmark", job=name)).stat().st_mtime_ns
        except FileNotFoundError:
            return False
        if ended >= written:
            self.finished[name] = written
            return True
        return False

    def _silent(self, name: str, written: int) -> float:
        """Seconds since a log was last written: by this machine's clock alone where that was seen."""
        now = time.monotonic()
        before = self.seen.get(name)
        if before is None:  # the disk's clock may be another
            self.seen[name] = written, now - max(0.0, time.time() - written / 1e9)
        elif before[0] != written:
            self.seen[name] = written, now
        return now - self.seen[name][1]


def _goes_on(state: Path | None, run: run_log.RunLog | None) -> str:
    """What is known of the newest run."""
    if state is None or run is None:
        return UNKNOWN
    if run.closed:
        return OVER
    return GOES_ON if run_log.locked(state) else STOPPED


def _state_of(told: job_log.Told, silent: float, run: str, how: str | None) -> str:
    """The state of a job that is not finished; `how` is what the run says of it, if it began it."""
    if told.told_to_end:
        return TOLD
    if told.error:
        return FAILED
    given_up = how == run_log.FAILED or (run == GOES_ON and how is None)
    fresh = silent < SILENT_AFTER
    if given_up or run == OVER or (run == STOPPED and not fresh):
        return KILLED
    return RUNNING if fresh else SILENT


def _tail(path: Path) -> str:
    """The end of a log."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        return file.read().decode("utf-8", "replace")
