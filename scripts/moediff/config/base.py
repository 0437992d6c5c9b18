"""What all sections of a config share.

Imports nothing heavy, as no module of this package does: every job of a cluster run parses the
Snakefile again.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

SPLITS = ("train", "fit", "validation")
ROW_SPLITS = SPLITS[1:]  # those of which activations are kept

Config = dict[str, Any]


def count_of(amount: float, whole: int) -> int:
    """A count from a count (a whole number) or a share (a number with a point)."""
    return amount if isinstance(amount, int) else round(amount * whole)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def matches(pattern: str) -> list[str]:
    """Paths that a glob matches, sorted; none of one that can be no path."""
    return [] if "\0" in pattern else sorted(glob.glob(pattern, recursive=True))


def matching_files(pattern: str) -> list[str]:
    """Files that a glob matches, sorted, and with them what cannot be looked at: reading will name it."""
    found = matches(pattern)
    return [path for path in found if os.path.isfile(path) or not os.path.exists(path)]


def files_of(folder: str, patterns: tuple[str, ...]) -> list[str]:
    found = {str(path) for pattern in patterns for path in Path(folder).glob(pattern)}
    return sorted(found) if Path(folder).is_dir() else []
