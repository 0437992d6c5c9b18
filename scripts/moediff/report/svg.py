"""Charts as SVG with a digest before them, since the page shows what stands in them."""

from __future__ import annotations

import re
from pathlib import Path

from moediff.core import artifact
from moediff.core.errors import DamagedError, unreadable

_MARK = re.compile(r"<!-- content ([0-9a-f]{32}) -->\n")


def marked(drawn: str) -> str:
    """An SVG as it is written: a comment with its digest, then itself."""
    return f"<!-- content {artifact.digest(drawn.encode())} -->\n{drawn}"


def read(path: Path | str) -> str:
    """The SVG in a file of `marked`, without the comment. Raises DamagedError when it is not whole.

    One of an earlier version begins with its root; no flipped bit makes one of today begin so.
    """
    try:
        text = Path(path).read_bytes().decode()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise unreadable(path, "not a chart of ours", error) from error
    if text.startswith("<svg"):
        return text
    mark = _MARK.match(text)
    drawn = text[mark.end() :] if mark else ""
    if mark is None or artifact.digest(drawn.encode()) != mark[1]:
        raise DamagedError(path, "it does not match its digest")
    return drawn
