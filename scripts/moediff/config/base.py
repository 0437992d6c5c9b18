"""What all sections of a config share.

Imports nothing heavy, as no module of this package does: every job of a cluster run parses the
Snakefile again.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
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
    """Paths that a glob matches, sorted; none of one that can be no path. Links are followed, in `**` too."""
    if "\0" in pattern:
        return []
    before, every, after = (pattern + "/").partition("**/")
    if not every or (before and not before.endswith("/")):
        return sorted(glob.glob(pattern, recursive=True))
    folders = [folder for top in glob.glob(before or ".") for folder in _folders(top)]
    if not after:  # all that is there
        return sorted({*glob.glob(before), *_below(folders, "*", before)})
    return sorted(_below(folders, after.removesuffix("/"), before))


def _below(folders: Iterable[str], pattern: str, before: str) -> set[str]:
    """What a glob matches in each of these folders, named as they are."""
    found = {
        path for folder in folders for path in matches(os.path.join(glob.escape(folder), pattern))
    }
    return found if before else {os.path.normpath(path) for path in found}


def _folders(top: str) -> Iterator[str]:
    """A folder and all below it, links followed but for those that lead up again, which have no end."""
    if os.path.isdir(top):
        yield from _below_place(top, os.path.realpath(top), frozenset())


def _below_place(folder: str, place: str, above: frozenset[str]) -> Iterator[str]:
    """The same of a folder that lies at `place` when links are followed, below those `above`."""
    yield folder
    with suppress(PermissionError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not entry.name.startswith(".") and entry.is_dir():
                inside = os.path.join(place, entry.name)
                there = os.path.realpath(inside) if entry.is_symlink() else inside
                if there not in above | {place}:
                    yield from _below_place(entry.path, there, above | {place})


def matching_files(pattern: str) -> list[str]:
    """Files that a glob matches, sorted, and with them what cannot be looked at: reading will name it."""
    found = matches(pattern)
    return [path for path in found if os.path.isfile(path) or not os.path.exists(path)]


def files_of(folder: str, patterns: tuple[str, ...]) -> list[str]:
    """Files of a folder whose names match, sorted; none where there is no such folder."""
    if not os.path.isdir(folder):  # False, too, of what can be no path
        return []
    return sorted({str(path) for pattern in patterns for path in Path(folder).glob(pattern)})
