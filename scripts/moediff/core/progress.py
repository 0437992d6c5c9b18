"""Progress of long work: a bar on a terminal, a sober line now and then in a log."""

from __future__ import annotations

import logging
import re
import sys
import time
from dataclasses import dataclass

from tqdm import tqdm

log = logging.getLogger("moediff")

_COUNT = re.compile(
    r"(?P<name>.+): (?P<done>[\d,]+) of (?P<total>[\d,]+) (?P<unit>[a-z]+)"
    r"(?:, about \d[\d.]* (?:s|min|h) left)?(?:, (?P<note>.+))?"
)
_DONE = re.compile(r".+: done in [\d.]+ s, \S+ [a-z]+/s")


@dataclass(frozen=True)
class Count:
    """How far work is, as a line of `Progress` says it."""

    name: str
    done: int
    total: int
    unit: str
    note: str = ""

    @classmethod
    def read(cls, line: str) -> Count | None:
        """The count in a line; None where it has none."""
        match = _COUNT.fullmatch(line)
        if match is None:
            return None
        done, total = (int(match[part].replace(",", "")) for part in ("done", "total"))
        return cls(match["name"], done, total, match["unit"], match["note"] or "")


def says_done(line: str) -> bool:
    """Whether `Progress` wrote this line at its end."""
    return _DONE.fullmatch(line) is not None


class Progress:
    """Counts `total` units of work; on a terminal a bar, elsewhere a log line every `seconds`.

    A line also stands at the beginning, and after the first units where they took more than `slow` seconds:
    what takes an hour says so in its first minutes. Where one unit takes minutes, `advance(0, note)` says
    what it is at. Not `shown`, there is no bar.
    """

    def __init__(
        self,
        total: int,
        name: str,
        unit: str,
        start: int = 0,
        seconds: float = 20,
        slow: float = 2,
        shown: bool = True,
    ) -> None:
        self.total, self.name, self.unit, self.seconds = total, name, unit, seconds
        self.wait = min(slow, seconds)  # until the next line
        self.first = self.done = start
        self.began = self.said = time.monotonic()
        self.bar = None
        if sys.stderr.isatty() and shown:
            self.bar = tqdm(total=total, initial=start, desc=name, unit=f" {unit}", unit_scale=True)
        else:
            log.info("%s: %s of %s %s", name, f"{start:,}", f"{total:,}", unit)

    def advance(self, amount: int, note: str = "") -> None:
        """Count `amount` units more; `note` is shown beside the count."""
        self.done += amount
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=not amount)
            self.bar.update(amount)
        elif time.monotonic() - self.said >= self.wait:
            self.said, self.wait = time.monotonic(), self.seconds
            said = [f"{self.name}: {self.done:,} of {self.total:,} {self.unit}"]
            if done := self.done - self.first:
                left = (self.total - self.done) * (self.said - self.began) / done
                said.append(f"about {duration(left)} left")
            log.info(", ".join([*said, note] if note else said))

    def close(self) -> None:
        """End the bar and log how fast the work went."""
        if self.bar is not None:
            self.bar.close()
        seconds = max(time.monotonic() - self.began, 1e-9)
        rate = speed((self.done - self.first) / seconds, self.unit)
        log.info("%s: done in %.1f s, %s", self.name, seconds, rate)


def speed(rate: float, unit: str) -> str:
    """A rate a second as it is shown."""
    return f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s"


def duration(seconds: float) -> str:
    """A stretch of time in the unit in which it is not below 2, hours at most."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
