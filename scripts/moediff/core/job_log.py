"""How the lines of a job's log are written, and what they tell: how far the job is, and how it ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moediff.core.progress import Count

FORMAT, TIME = "%(asctime)s %(message)s", "%H:%M:%S"  # of `logging`
DAY, HALF_DAY = 86_400, 43_200  # seconds
_LINE = re.compile(r"(\d\d):(\d\d):(\d\d) (.*)")
_ERROR = re.compile(r"error in \w+: ")
_TOLD = re.compile(r"\w+: told to end \(SIG[A-Z]+\)")


def failed(rule: str, why: object) -> str:
    """The line by which a job says why it fails."""
    return f"error in {rule}: {why}"


def told_to_end(rule: str, signal: str) -> str:
    """The line of a job that was told to end by a signal."""
    return f"{rule}: told to end ({signal}); the same command goes on"


@dataclass(frozen=True)
class Told:
    """What a log tells."""

    last: str = ""  # its last message
    error: str = ""  # the line by which the job said why it fails
    told_to_end: bool = False
    count: Count | None = None  # of the work that it is at
    rate: float | None = None  # units a second, over all lines of that work that were read


def read(text: str) -> Told:
    """What the end of a log tells; lines without a time (a traceback, one that is cut) are passed over.

    Times are of the day alone: each is taken as within twelve hours of the one before, and one that lies
    before it, as where a clock is set back, as no time at all.
    """
    from moediff.core.progress import Count, says_done  # imports tqdm, which not every job needs

    last = error = ""
    count = rate = begun = before = None
    told, now = False, 0.0  # seconds since the first line
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        hours, minutes, seconds, last = match.groups()
        stamp = 3600 * int(hours) + 60 * int(minutes) + int(seconds)
        if before is not None:
            now += max(0, (stamp - before + HALF_DAY) % DAY - HALF_DAY)
        before = stamp
        if _ERROR.match(last):
            error = error or last
        told = told or _TOLD.match(last) is not None
        found = Count.read(last)
        if found is not None:
            if count is None or begun is None or _work(found) != _work(count):
                begun, rate = (now, found.done), None
            elif now > begun[0] and found.done > begun[1]:
                rate = (found.done - begun[1]) / (now - begun[0])
            count = found
        elif says_done(last):
            count = rate = begun = None
    return Told(last, error, told, count, rate)


def _work(count: Count) -> tuple[str, int, str]:
    """What is counted, however far it is."""
    return count.name, count.total, count.unit
