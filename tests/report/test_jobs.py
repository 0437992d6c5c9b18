"""How jobs are, by made files of runs: Snakemake's log, its lock, the jobs' own logs and benchmarks."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from moediff.config import made_in
from moediff.core import artifact, job_log
from moediff.core.errors import UserError
from moediff.report import jobs
from moediff.report.jobs import Look, Watched

TRAIN, FIT = "train/moe-0", "fit/pair/moe.0_dense.0/default-0"


class Made:
    """A working folder as Snakemake and its jobs leave it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results = folder, folder / "results"
        self.results.mkdir(parents=True)
        (folder / ".snakemake/log").mkdir(parents=True)
        made_in.claim("results", folder, "a digest")

    def log(self, name: str, text: str = "", age: float = 0) -> Path:
        return self._write(self.results / f"logs/{name}.log", text, age)

    def benchmark(self, name: str, age: float = 0) -> Path:
        return self._write(self.results / f"benchmarks/{name}.tsv", "s\n1.0\n", age)

    def _write(self, path: Path, text: str, age: float) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, ns=(time.time_ns() - int(age * 1e9),) * 2)
        return path

    def lock(self, held: bool = True) -> None:
        locks = self.folder / ".snakemake/locks"
        if held:
            locks.mkdir(exist_ok=True)
            (locks / "0.output.lock").write_text("results/x\n")
        else:
            (locks / "0.output.lock").unlink()

    def say(self, *lines: str, run: str = "2026-01-02T030405.000006") -> None:
        """Lines more in the log of a run."""
        with open(self.folder / f".snakemake/log/{run}.snakemake.log", "a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def begin(self, number: int, name: str, **how: str) -> None:
        self.say(
            "[Fri Jan  2 03:04:05 2026]", f"localrule {name.split('/')[0]}:", "    input: a, b",
            "    output: c", f"    log: results/logs/{name}.log", f"    jobid: {number}",
            f"    benchmark: results/benchmarks/{name}.tsv", "    reason: Missing output files: c", **how,
        )  # fmt: skip

    def fail(self, number: int, name: str) -> None:
        self.say(
            "[Fri Jan  2 03:04:06 2026]", f"Error in rule {name.split('/')[0]}:",
            "    message: None", f"    jobid: {number}", "    input: a, b",
            f"    log: results/logs/{name}.log (check log file(s) for error details)",
        )  # fmt: skip

    def finish(self, number: int, name: str, done: int, total: int) -> None:
        self.say(f"Finished jobid: {number} (Rule: {name.split('/')[0]})",
                 f"{done} of {total} steps (1%) done")  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "study")


def states(look: Look) -> dict[str, str]:
    return {job.name: job.state for job in look.jobs}


def test_a_job_runs_then_is_finished_by_its_benchmark(made: Made) -> None:
    made.lock()
    made.begin(3, TRAIN)
    watched = Watched(made.results)
    assert states(watched.look()) == {TRAIN: jobs.WAITING}
    made.log(TRAIN, "03:04:05 moe.0: 0 of 900 tokens\n03:04:15 moe.0: 300 of 900 tokens\n", age=7)
    look = watched.look()
    assert states(look) == {TRAIN: jobs.RUNNING}
    (job,) = look.jobs
    assert job.told.rate == 30
    assert job.left == pytest.approx(20)
    assert job.silent == pytest.approx(7, abs=2)
    assert look.run == jobs.GOES_ON
    made.benchmark(TRAIN)
    made.finish(3, TRAIN, 1, 9)
    look = watched.look()
    assert not look.jobs
    assert (look.finished, look.steps) == (1, (1, 9))
    assert look.counts()[jobs.FINISHED] == 1


def test_a_finished_job_that_begins_anew_runs(made: Made) -> None:
    made.lock()
    made.log(TRAIN, age=100)
    made.benchmark(TRAIN, age=90)
    watched = Watched(made.results)
    assert watched.look().finished == 1
    made.begin(1, TRAIN)
    made.log(TRAIN)  # Snakemake leaves the old benchmark until the new one is written
    assert states(watched.look()) == {TRAIN: jobs.RUNNING}


def test_a_job_that_says_nothing_for_minutes_is_marked(made: Made) -> None:
    made.lock()
    made.begin(1, TRAIN)
    made.begin(2, FIT)
    made.log(TRAIN, age=jobs.SILENT_AFTER + 60)
    made.log(FIT, age=jobs.SILENT_AFTER - 60)
    assert states(Watched(made.results).look()) == {FIT: jobs.RUNNING, TRAIN: jobs.SILENT}


def test_failed_killed_and_told_to_end_are_told_apart(made: Made) -> None:
    made.lock()
    names = ["fit/a", "train/b", "cache/c", "splice/d"]
    for number, name in enumerate(names):
        made.begin(number, name)
    why = job_log.failed("fit", "no such thing")
    made.log("fit/a", f"03:04:05 {why}\n")
    made.log("train/b", f"03:04:05 {job_log.told_to_end('train', 'SIGTERM')}\n")
    made.log("cache/c", "03:04:05 m: 1 of 9 tokens\n")
    made.log("splice/d", "03:04:05 splicing: 1 of 9 sequences\n")
    made.fail(2, "cache/c")
    look = Watched(made.results).look()
    assert states(look) == {"splice/d": jobs.RUNNING, "fit/a": jobs.FAILED, "train/b": jobs.TOLD,
                            "cache/c": jobs.KILLED}  # fmt: skip
    (said,) = (fact["says"] for fact in look.facts(0)["jobs"] if fact["name"] == "fit/a")
    assert said == why
    made.say("Trying to restart job 2.")  # its next attempt
    made.log("cache/c")
    assert states(Watched(made.results).look())["cache/c"] == jobs.RUNNING


@pytest.mark.parametrize("locked", [True, False])
def test_when_a_run_is_over_what_has_no_end_was_killed(made: Made, locked: bool) -> None:
    made.lock()
    made.begin(1, TRAIN)
    made.begin(2, "queued/x")
    made.log(TRAIN, age=jobs.SILENT_AFTER + 60)
    if not locked:  # of a killed run, whose lock was removed by hand
        made.lock(held=False)
        look = Watched(made.results).look()
        assert look.run == jobs.STOPPED
    else:
        made.say("Complete log(s): a.snakemake.log")
        look = Watched(made.results).look()
        assert look.run == jobs.OVER
    assert states(look) == {TRAIN: jobs.KILLED}  # what never began is not there


def test_a_run_without_a_lock_has_jobs_that_speak(made: Made) -> None:
    made.begin(1, TRAIN)
    made.log(TRAIN)
    look = Watched(made.results).look()
    assert (look.run, states(look)) == (jobs.STOPPED, {TRAIN: jobs.RUNNING})


def test_what_an_earlier_run_left_is_not_taken_for_running(made: Made) -> None:
    made.begin(1, TRAIN, run="2026-01-01T000000.000000")
    made.log(TRAIN)
    made.lock()
    made.begin(1, FIT)
    made.log(FIT)
    assert states(Watched(made.results).look()) == {FIT: jobs.RUNNING, TRAIN: jobs.KILLED}


def test_a_run_of_other_results_in_the_working_folder_is_not_this_one(made: Made) -> None:
    made.begin(1, TRAIN)
    made.finish(1, TRAIN, 4, 7)
    later = "2026-02-02T000000.000000"
    made.say("rule train:", "    log: results-of-another/logs/train/x.log", "    jobid: 0",
             "1 of 99 steps (1%) done", run=later)  # fmt: skip
    made.say("Building DAG of jobs...", run="2026-02-03T000000.000000")
    assert Watched(made.results).look().steps == (4, 7)


def test_a_log_of_snakemake_is_read_as_it_grows_and_a_cut_line_waits(made: Made) -> None:
    made.lock()
    made.say(
        "Job stats:", "job      count", "-----  -------", "train        9", "total      120", ""
    )
    made.begin(5, TRAIN)
    watched = Watched(made.results)
    assert watched.look().steps == (0, 120)
    path = next((made.folder / ".snakemake/log").iterdir())
    with open(path, "a") as file:
        file.write("12 of 1")
    assert watched.look().steps == (0, 120)
    with open(path, "a") as file:
        file.write("20 steps (10%) done\n")
    assert watched.look().steps == (12, 120)


def test_results_alone_without_their_working_folder_are_read_by_age(
    made: Made, tmp_path: Path
) -> None:
    made.log(TRAIN)
    made.log(FIT, age=jobs.SILENT_AFTER + 60)
    alone = made.results.rename(tmp_path / "alone")
    look = Watched(alone).look()
    assert look.run == jobs.UNKNOWN
    assert look.steps is None
    assert states(look) == {TRAIN: jobs.RUNNING, FIT: jobs.SILENT}


def test_a_damaged_mark_hides_the_run_and_no_job(made: Made) -> None:
    made.log(TRAIN)
    (made.results / made_in.MARK).write_text("{}")
    assert Watched(made.results).look().run == jobs.UNKNOWN


def test_a_disk_whose_clock_is_ahead_is_told_and_makes_no_age_negative(made: Made) -> None:
    made.lock()
    made.begin(1, TRAIN)
    made.log(TRAIN, age=-400)
    look = Watched(made.results).look()
    assert look.ahead == pytest.approx(400, abs=2)
    assert look.jobs[0].silent == pytest.approx(0, abs=2)
    assert look.jobs[0].state == jobs.RUNNING


def test_a_line_that_was_seen_to_come_has_its_age_by_this_clock(made: Made) -> None:
    made.lock()
    made.begin(1, TRAIN)
    made.log(TRAIN, "03:04:05 a\n", age=3700)
    watched = Watched(made.results)
    assert watched.look().jobs[0].state == jobs.SILENT
    made.log(TRAIN, "03:04:05 a\n03:04:06 b\n", age=3600)  # of a clock that is an hour behind
    job = watched.look().jobs[0]
    assert job.silent == pytest.approx(0, abs=2)
    assert job.state == jobs.RUNNING


def test_what_cleans_up_is_no_job(made: Made) -> None:
    made.log("clean_state")
    look = Watched(made.results).look()
    assert (look.jobs, look.finished) == ([], 0)


def test_a_long_log_is_read_at_its_end(made: Made) -> None:
    lines = [
        f"03:{n // 60 % 60:02d}:{n % 60:02d} moe.0: {n * 100:,} of 900,000 tokens"
        for n in range(3600)
    ]
    made.log(TRAIN, "\n".join(lines) + "\n")
    assert os.path.getsize(made.results / f"logs/{TRAIN}.log") > 2 * jobs.TAIL
    (job,) = Watched(made.results).look().jobs
    assert job.told.rate == 100
    assert job.left == pytest.approx((900_000 - 359_900) / 100)


def test_nothing_is_written_and_facts_are_plain_json(made: Made, tmp_path: Path) -> None:
    made.lock()
    made.begin(1, TRAIN)
    made.log(TRAIN, "03:04:05 moe.0: 300 of 900 tokens\n")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    look = Watched(made.results).look()
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
    assert look.facts(1_700_000_000.0) == {
        "at": "2023-11-14T22:13:20+00:00",
        "run": "running",
        "steps": None,
        "counts": {"running": 1, "silent": 0, "waiting": 0, "failed": 0, "told to end": 0, "killed": 0,
                   "finished": 0},
        "jobs": [{"name": TRAIN, "state": "running", "work": "moe.0", "done": 300, "of": 900,
                  "unit": "tokens", "per_second": None, "seconds_left": None,
                  "seconds_silent": round(look.jobs[0].silent or 0),
                  "says": "moe.0: 300 of 900 tokens"}],
    }  # fmt: skip
    artifact.canonical(look.facts(0.0))


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Watched(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert Watched(tmp_path / "empty").look() == Look(jobs.UNKNOWN, None, [], 0, 0.0)
