"""Told to end, by a scheduler, Ctrl-C or a closing terminal, a job keeps what it did and leaves in seconds.

A signal ends the job where it stands, as an exception: files are written whole or not at all, so nothing is
torn. What has a state of its own goes step by step in `whole_step`, where a signal waits for the end of the
step, and saves when `Preempted` comes by: the same command then goes on after that very step.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A job that is not gone after so many seconds is ended by the kernel, and goes on from the checkpoint before.
# Whoever sent the signal kills after 30, and with the job whatever starts it (Slurm, Kubernetes).
SECONDS = 18


class Preempted(BaseException):
    """The job was told to end. No Exception: nothing that handles errors may take it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number).name
        # The exit code, as a shell gives it: 143 of SIGTERM, 130 of Ctrl-C.
        self.code = 128 + number


class _Told:
    """What this process was told; signals are a matter of the whole process."""

    def __init__(self) -> None:
        self.steps = 0  # under way, one in another
        self.waiting: int | None = None  # a signal that came in one
        self.leaving = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        if self.leaving or self.waiting is not None:
            return  # schedulers say it more than once
        signal.alarm(SECONDS)
        self.waiting = number
        self.leave()

    def leave(self) -> None:
        if self.waiting is not None and not self.steps:
            number, self.waiting, self.leaving = self.waiting, None, True
            raise Preempted(number)


_told = _Told()


@contextmanager
def heeded() -> Iterator[None]:
    """Within it SIGNALS raise `Preempted`; not those that are ignored, as by nohup."""
    global _told
    _told = _Told()
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _told.hear) for number in heard}
    try:
        yield
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def whole_step() -> Iterator[None]:
    """Within it a signal waits: what has begun is done whole, then `Preempted` is raised."""
    _told.leave()
    _told.steps += 1
    try:
        yield
    finally:
        _told.steps -= 1
    _told.leave()


def waiting() -> int | None:
    """The number of a signal that waits for the end of a step."""
    return _told.waiting


def too_late() -> None:
    """From here on signals change nothing: the rest takes an instant, and half of it would be lost."""
    _told.leaving = True
