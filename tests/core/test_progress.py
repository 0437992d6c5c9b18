"""What long work says of itself where no terminal watches."""

from __future__ import annotations

import pytest

from moediff.core import progress
from moediff.core.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be set."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    return now


def test_slow_work_speaks_at_once_after_its_first_units_and_then_now_and_then(
    clock, caplog
) -> None:
    caplog.set_level("INFO", "moediff")
    work = Progress(64, "splicing", "sequences")
    assert caplog.messages == ["splicing: 0 of 64 sequences"]
    clock[0] += 5  # of a job that is quiet for 20 s between two lines
    work.advance(16)
    assert caplog.messages[1:] == ["splicing: 16 of 64 sequences, about 15 s left"]
    clock[0] += 5
    work.advance(1)
    assert len(caplog.messages) == 2
    clock[0] += 590
    work.advance(15, "note")
    assert caplog.messages[2:] == ["splicing: 32 of 64 sequences, about 10 min left, note"]
    work.close()
    assert caplog.messages[3] == "splicing: done in 600.0 s, 0.053 sequences/s"


def test_a_unit_that_takes_minutes_says_what_it_is_at_and_no_end_before_one_is_done(
    clock, caplog
) -> None:
    caplog.set_level("INFO", "moediff")
    work = Progress(24, "splicing", "sequences")
    for kind in ("zero", "mean", "spliced"):
        clock[0] += 15
        work.advance(0, kind)
    clock[0] += 15
    work.advance(12)
    assert caplog.messages[1:] == [
        "splicing: 0 of 24 sequences, zero",
        "splicing: 0 of 24 sequences, spliced",
    ]
    clock[0] += 5
    work.advance(0, "mean")
    assert caplog.messages[3:] == ["splicing: 12 of 24 sequences, about 65 s left, mean"]


def test_quick_work_says_when_it_begins_and_ends(clock, caplog) -> None:
    caplog.set_level("INFO", "moediff")
    work = Progress(3000, "rows", "rows", start=1000)
    work.advance(2000)
    clock[0] += 0.5
    work.close()
    assert caplog.messages == ["rows: 1,000 of 3,000 rows", "rows: done in 0.5 s, 4,000 rows/s"]
