"""What Snakemake's lock says to who finds it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path


def left_behind(state: Path, arguments: Sequence[str]) -> str:
    """A line for who may be about to be stopped by a lock; empty where there is none.

    `state` is Snakemake's folder in the working folder, `arguments` the command line. Whether the run
    that took the lock has ended cannot be told safely (docs/decisions.md), so that nothing is removed.
    """
    try:
        locked = any((state / "locks").iterdir())
    except OSError:
        return ""
    if not locked or "--unlock" in arguments:
        return ""
    command = shlex.join([sys.executable, "-m", "snakemake", *arguments[1:], "--unlock"])
    return (
        f"lock: another run of Snakemake works in this folder, or was killed here. If none runs (nor a job "
        f"of it), remove its lock, then run the same command again: {command}\n"
    )
