"""Which GPUs a job has to itself: Snakemake counts devices, it does not say which one is whose.

A job locks as many of the devices that it may see as it asked for, and from then on sees no other. The
kernel drops a lock when its process dies, however it dies. A lock is of the device by its UUID, so that jobs
agree which it is whatever each calls it: a number, a UUID, the name of a part of a GPU (MIG), or the 0 of
every job from which a cluster manager hides all devices but its own.
"""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from moediff.core import cuda_uuids
from moediff.core.errors import UserError, writing
from moediff.core.progress import log

VISIBLE = "CUDA_VISIBLE_DEVICES"
# All jobs of a user on a machine meet here; TMPDIR is often one of the job's own.
LOCKS = Path("/tmp") / f"moediff-gpus-{os.getuid()}"
EVERY = 0.2  # seconds between two looks at devices that were all taken


class Gpu(NamedTuple):
    """A device of this machine."""

    name: str  # in CUDA_VISIBLE_DEVICES
    uuid: str


def uuids_of(named: str | None) -> list[str]:
    """UUIDs of the devices that CUDA sees where CUDA_VISIBLE_DEVICES is `named`, in its order."""
    environment = {key: value for key, value in os.environ.items() if key != VISIBLE}
    if named is not None:
        environment[VISIBLE] = named
    program = [sys.executable, "-I", "-S", cuda_uuids.__file__]
    found = subprocess.run(program, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return found.stdout.split()


def visible(named: str | None) -> list[Gpu]:
    """The devices of CUDA_VISIBLE_DEVICES, None where it is not set; their names are kept as they are."""
    if named is None:
        return [Gpu(str(number), uuid) for number, uuid in enumerate(uuids_of(None))]
    names = [name.strip() for name in named.split(",")]
    if any(name.startswith("MIG-") for name in names):  # of which CUDA shows a process one
        return [Gpu(name, uuid) for name in names for uuid in uuids_of(name)[:1]]
    # CUDA ends the list at the first wrong name.
    return [Gpu(*pair) for pair in zip(names, uuids_of(named), strict=False)]


@contextmanager
def taken(count: int) -> Iterator[None]:
    """Within it `count` devices are this process's alone and CUDA sees no other; 0: it sees none.

    Waits until so many are free. Where CUDA sees no device at all nothing is taken. Raises UserError where
    it sees fewer than `count`.
    """
    before = os.environ.get(VISIBLE)
    with ExitStack() as locks:
        if count == 0:
            os.environ[VISIBLE] = ""
        elif found := visible(before):
            if len(found) < count:
                raise UserError(
                    f"gpu: {count} are asked for, and CUDA sees {len(found)} ({VISIBLE} is "
                    f"{'not set' if before is None else repr(before)}); ask for fewer with "
                    "--set-resources RULE:gpu=NUMBER, or let the job see more"
                )
            names = _names(_lock_when_free(found, count, locks))
            os.environ[VISIBLE] = names
            log.info("GPU %s of %s", names, _names(found))
        try:
            yield
        finally:
            os.environ.pop(VISIBLE, None)
            if before is not None:
                os.environ[VISIBLE] = before


def _names(gpus: Sequence[Gpu]) -> str:
    return ",".join(gpu.name for gpu in gpus)


def _lock_when_free(gpus: Sequence[Gpu], count: int, locks: ExitStack) -> list[Gpu]:
    """The first `count` of `gpus` that are free, locked until `locks` is closed; waits for them."""
    folder, said = _folder(), False
    while True:
        # One looks at a time: two that need two devices each would else hold one and wait for the other.
        with writing(folder), _lock(folder / "choosing"), ExitStack() as attempt:
            free = []
            for gpu in gpus:
                try:
                    attempt.enter_context(_lock(folder / gpu.uuid, fcntl.LOCK_NB))
                except BlockingIOError:
                    continue
                free.append(gpu)
                if len(free) == count:
                    locks.enter_context(attempt.pop_all())
                    return free
        if not said:
            log.info("waits for %d of the GPUs %s: other jobs have them", count, _names(gpus))
            said = True
        time.sleep(EVERY)


@contextmanager
def _lock(path: Path, flag: int = 0) -> Iterator[None]:
    """Within it no other process has the lock of a file. Raises BlockingIOError with LOCK_NB."""
    with open(path, "ab") as file:
        os.utime(file.fileno())  # what tidies /tmp goes by age
        fcntl.flock(file, fcntl.LOCK_EX | flag)
        yield


def _folder() -> Path:
    """The folder of the locks. Raises UserError where another user made it."""
    with writing(LOCKS):
        LOCKS.mkdir(mode=0o700, exist_ok=True)
        found = LOCKS.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise UserError(f"{LOCKS}: should be a folder of this user's own; remove it and run again")
    return LOCKS
