"""The group of every name by a regular expression, searched in a process of its own.

Python's own search cannot be interrupted where it backtracks without end, as `(a+)+$` does over forty
letters; a process can be stopped. This file is that process's program too: it imports nothing of ours.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

SECONDS = 10.0  # for thousands of names, which take milliseconds


class Endless(Exception):
    """A search that did not end in time; `name` is where."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def search(pattern: str, names: Sequence[str], seconds: float) -> list[str | None]:
    """Of every name what the first group of `pattern` (all of it, where it has none) finds, else None.

    Raises Endless when that takes longer than `seconds`, and RuntimeError when the search breaks off.
    """
    asked = "".join(json.dumps(line) + "\n" for line in (pattern, *names))
    try:
        answer = subprocess.run(
            [sys.executable, "-I", "-S", __file__],
            input=asked.encode(), capture_output=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise Endless(names[min((late.stdout or b"").count(b"\n"), len(names) - 1)]) from late
    if answer.returncode:
        raise RuntimeError(answer.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    return [json.loads(line) for line in answer.stdout.splitlines()]


def _answer() -> None:
    """Read a pattern and names, one a line, and answer each with a line of its own at once."""
    pattern = re.compile(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        found = pattern.search(json.loads(line))
        print(json.dumps(found and found.group(1 if pattern.groups else 0)), flush=True)


if __name__ == "__main__":
    _answer()
