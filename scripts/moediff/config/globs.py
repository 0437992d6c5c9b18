"""Globs that a user writes: what they pass over without a word, and names that no job can write down."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from moediff.core.errors import shown

# Categories of letters that a name may not hold: control characters, ends of lines, and lone surrogates, as
# which bytes that are not UTF-8 stand in a path.
_UNFIT = ("Cc", "Zl", "Zp", "Cs")


def glob_fault(pattern: str, found: Sequence[str]) -> str | None:
    """Why the paths that a glob found cannot be all that it was meant for; None if nothing says so."""
    name = _meant_literally(pattern)
    if name is not None:
        return (
            f"'{shown(name)}' is there, but as a pattern its brackets match other names; "
            f"write '{shown(glob.escape(name))}'"
        )
    if not found:
        hint = "; of the letter [ itself write [[]" if "[" in pattern else ""
        return f"no file matches '{shown(pattern, 400)}' (from {Path.cwd().name}/){hint}"
    return next((fault for path in found if (fault := _path_fault(path))), None)


def _meant_literally(pattern: str) -> str | None:
    """The first part of a glob that is the name of something which its own brackets do not match."""
    for name in map(str, accumulate(Path(pattern).parts, Path)):
        if "[" in name and os.path.lexists(name) and name not in glob.glob(name):
            return name
    return None


def _path_fault(path: str) -> str | None:
    if any(unicodedata.category(letter) in _UNFIT for letter in path):
        return (
            f"the name '{shown(path, 400)}' is not UTF-8, or holds a control character; rename it"
        )
    if not os.path.exists(path):
        return f"'{path}' cannot be read: a link to nothing, or a folder that may not be entered"
    if not os.access(path, os.R_OK):
        return f"'{path}' cannot be read (Permission denied); nothing is known against it"
    return None
