"""Whether claims were fixed before the numbers that they are about could be seen.

A results folder bears a note of the claims by which its numbers will be judged, by their digest. As long as
no dictionary of it has been measured, each run may write it anew; from then on it stays. What it cannot know:
a note that someone removes, numbers that were seen in another folder, and a change of the metrics themselves,
which are code.
"""

from __future__ import annotations

from pathlib import Path

from moediff.config import layout
from moediff.core import artifact

MARK = ".claims-fixed.json"
_MEASURED = layout.path(
    "dictionary", comparison="*", member="*", recipe="*", seed="*", file="metrics.json"
)


def fix(results: Path, digest: str, measured: bool = False) -> None:
    """Note the claims of a run that is about to start, before its first job.

    Results that were measured before there was a note get one that names no claims. `measured` says that
    some were whose numbers do not lie in this folder but in a bucket.
    """
    measured = measured or any(results.glob(_MEASURED))
    if not (measured and (results / MARK).exists()):
        artifact.write_json(results / MARK, {"claims": None if measured else digest})


def exploratory(results: Path, digest: str) -> str | None:
    """Why what claims of this digest say is exploratory; None where they were fixed beforehand."""
    try:
        fixed = artifact.read_json(results / MARK)["claims"]
    except FileNotFoundError:
        fixed = None
    if fixed is None:
        return "it is not known whether the claims were fixed before their numbers could be seen"
    return None if fixed == digest else "the claims changed after their numbers could be seen"
