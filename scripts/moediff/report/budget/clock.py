"""How long a piece of work takes: run for a moment, on a small part of what it will be."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from moediff.core.errors import UserError, first_line, one_line

SECONDS = 1.5  # of measuring, for each rate


class Cost(NamedTuple):
    """Seconds that a job takes whatever its amount, and those of each unit."""

    fixed: float
    each: float

    def seconds(self, amount: float) -> float:
        return self.fixed + self.each * amount


def rate(work: Callable[[], int]) -> float:
    """Units of work a second; `work` says how many it did.

    The first call, which warms up, is not counted, unless it alone took as long as is measured.
    """
    began = time.perf_counter()
    done = work()
    if time.perf_counter() - began < SECONDS:
        began, done = time.perf_counter(), 0
    while not done or time.perf_counter() - began < SECONDS:
        done += work()
    return done / (time.perf_counter() - began)


def cost(work: Callable[[int], object], few: int) -> Cost:
    """Cost of work of which `few` units are done, and then some times as many: what does not grow with
    them is told from what does. Work that takes long is not done four times over."""
    first = taken(lambda: work(few))
    more = few * (4 if first < SECONDS else 2)
    small = _mean(work, few) if first < SECONDS else first
    each = max(0.0, (_mean(work, more) - small) / (more - few))
    return Cost(max(0.0, small - each * few), each)


def taken(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _mean(work: Callable[[int], object], size: int) -> float:
    """Seconds of one run, over as many as fit."""
    runs = [taken(lambda: work(size))]
    while sum(runs) + runs[-1] < SECONDS / 2:
        runs.append(taken(lambda: work(size)))
    return sum(runs) / len(runs)


def attempt(measure: Callable[[], None]) -> str | None:
    """Run it; why it could not be, in one line: bad input, or no memory. Any other fault is raised."""
    try:
        measure()
    except (UserError, MemoryError, torch.OutOfMemoryError) as error:
        return one_line(first_line(error))
    except RuntimeError as error:
        if "allocate" not in str(error):  # of torch on a CPU
            raise
        return one_line(first_line(error))
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the stages say of made data."""
    log = logging.getLogger("moediff")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
