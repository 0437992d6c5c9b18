"""Whether claims were fixed before the numbers that they are about could be seen.

A results folder bears a note of the claims by which its numbers will be judged, by their digest. As long as
nothing that they are about has been measured there (no dictionary, no MoE's experts), each run may write it
anew; from then on it stays. What it cannot know: a note that someone removes, numbers that were seen in
another folder, and a change of the metrics themselves, which are code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moediff.claims.reading import DICTIONARIES, EXPERTS
from moediff.config import layout
from moediff.core import artifact

MARK = ".claims-fixed.json"
_KEYS = {DICTIONARIES: "claims", EXPERTS: "experts"}  # of the note
_MEASURED = {
    DICTIONARIES: [
        layout.path(
            "dictionary", comparison="*", member="*", recipe="*", seed="*", file="metrics.json"
        )
    ],
    EXPERTS: [
        layout.path("moe", model="*", seed="*", file=file)
        for file in ("routing.json", "lens.parquet", "fewer_experts.parquet")
    ],
}


def fix(results: Path, digests: Mapping[str, str], elsewhere: bool = False) -> None:
    """Note the claims of a run that is about to start, before its first job: digests by group of claims.

    Results that were measured before there was a note get one that names no claims. `elsewhere` says that
    some were whose numbers do not lie in this folder but in a bucket.
    """
    note = {}
    for group, digest in digests.items():
        measured = elsewhere or any(any(results.glob(path)) for path in _MEASURED[group])
        note[_KEYS[group]] = _fixed(results, group) if measured else digest
    artifact.write_json(results / MARK, note)


def exploratory(results: Path, digest: str, group: str = DICTIONARIES) -> str | None:
    """Why what claims of this digest say is exploratory; None where they were fixed beforehand."""
    fixed = _fixed(results, group)
    if fixed is None:
        return "it is not known whether the claims were fixed before their numbers could be seen"
    return None if fixed == digest else "the claims changed after their numbers could be seen"


def _fixed(results: Path, group: str) -> str | None:
    """The digest that the note holds of a group of claims."""
    try:
        fixed: str | None = artifact.read_json(results / MARK).get(_KEYS[group])
    except FileNotFoundError:
        return None
    return fixed
