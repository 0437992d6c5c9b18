"""What the lines of a job's log tell of it, whatever its clock does."""

from __future__ import annotations

import itertools
import logging

import pytest

from moediff.core import job_log, progress
from moediff.core.progress import Count, Progress


def stamped(*lines: tuple[int, str]) -> str:
    """A log: seconds of the day, and a message."""
    return "".join(
        f"{second // 3600 % 24:02d}:{second // 60 % 60:02d}:{second % 60:02d} {text}\n"
        for second, text in lines
    )


def counted(*points: tuple[int, int], total: int = 1_000_000) -> str:
    """A log of one work in tokens."""
    return stamped(*((second, f"moe.0: {done:,} of {total:,} tokens") for second, done in points))


def test_a_log_without_lines_tells_nothing() -> None:
    assert job_log.read("") == job_log.Told()
    assert job_log.read("no time\nTraceback (most recent call last):\n") == job_log.Told()


def test_the_rate_is_over_all_lines_of_a_work() -> None:
    told = job_log.read(counted((100, 200_000), (102, 201_000), (200, 300_000)))
    assert told.count == Count("moe.0", 300_000, 1_000_000, "tokens")
    assert told.rate == pytest.approx(1000)


def test_other_lines_between_change_neither_count_nor_rate() -> None:
    lines = counted((0, 0), (10, 500)) + stamped((11, "moe.0: step 3 of 9, validation loss 4.0"))
    told = job_log.read(lines)
    assert told.last == "moe.0: step 3 of 9, validation loss 4.0"
    assert told.count == Count("moe.0", 500, 1_000_000, "tokens")
    assert told.rate == 50


def test_the_next_work_of_a_job_has_a_rate_of_its_own() -> None:
    other = stamped(
        (50, "evaluation: 0 of 64 rows"), (54, "evaluation: 8 of 64 rows, about 28 s left")
    )
    told = job_log.read(counted((0, 0), (10, 500)) + other)
    assert told.count == Count("evaluation", 8, 64, "rows")
    assert told.rate == 2
    done = other + stamped((60, "evaluation: done in 10.0 s, 6.4 rows/s"))
    assert job_log.read(done) == job_log.Told("evaluation: done in 10.0 s, 6.4 rows/s")


@pytest.mark.parametrize("night", [86_400, 3 * 86_400])
def test_midnight_is_no_step_back(night: int) -> None:
    told = job_log.read(counted((night - 20, 0), (night + 20, 400)))
    assert told.rate == 10


def test_a_clock_that_is_set_back_costs_the_time_between_two_lines_only() -> None:
    told = job_log.read(counted((7000, 0), (7100, 1000), (3500, 1000), (3600, 2000)))
    assert told.rate == 10


def test_counts_within_one_second_have_no_rate() -> None:
    assert job_log.read(counted((5, 0), (5, 100))).rate is None
    assert job_log.read(counted((5, 100))).rate is None


def test_a_line_that_is_cut_at_the_beginning_is_passed_over() -> None:
    text = counted((100, 0), (200, 1000), (300, 2000))
    told = job_log.read(text[3:])
    assert told.rate == 10
    assert told.count is not None
    assert told.count.done == 2000


def test_the_end_of_a_job_is_told_by_the_lines_that_jobs_write() -> None:
    why = job_log.failed("fit", "recipes: no such thing; look there")
    trace = "Traceback (most recent call last):\n  raise\n"
    assert job_log.read(stamped((1, "begins"), (2, why)) + trace).error == why
    told = job_log.read(stamped((2, job_log.told_to_end("train", "SIGTERM"))))
    assert told.told_to_end
    assert not told.error
    assert not job_log.read(stamped((1, "domain error: 3 of 4 rows"))).error


@pytest.mark.parametrize("name", ["moe.0", "8 dictionaries", "a: 3 of 4 b", "moe at 0.003"])
@pytest.mark.parametrize("note", ["", "spliced, live", "about 3 rows"])
def test_what_progress_writes_is_read_back(
    name: str, note: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = itertools.count(0, 7000)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    caplog.set_level(logging.INFO, "moediff")
    work = Progress(12_345_678, name, "rows", start=1_000)
    work.advance(0, note)
    work.advance(2_000_000, note)
    work.close()
    begun, still, later, end = caplog.messages
    assert Count.read(begun) == Count(name, 1_000, 12_345_678, "rows")
    assert Count.read(still) == Count(name, 1_000, 12_345_678, "rows", note)
    assert "left" in later
    assert Count.read(later) == Count(name, 2_001_000, 12_345_678, "rows", note)
    assert Count.read(end) is None
    assert progress.says_done(end)
    assert not progress.says_done(later)
