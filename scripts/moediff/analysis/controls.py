"""What a rule of classes says where the answer is known: its error rates, beside every count.

Two seeds of one model differ in nothing that was asked about, a rotated copy differs in nothing at all,
and permuted rows have nothing in common (our definition).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moediff.config.layout import Source

OTHER_SEED, ROTATED, PERMUTED = "other seed", "rotated", "permuted"
CONTROLS = (OTHER_SEED, ROTATED, PERMUTED)
EXCLUSIVE, COMMON = ("A-only", "B-only"), "common"


def control_of(sources: Sequence[str]) -> str | None:
    """Which control two sources are, by their names (model.seed, a view, a hook point); None: none."""
    first, second = map(Source.parse, sources)
    if second.view:
        return second.view
    return OTHER_SEED if first.model == second.model and first.seed != second.seed else None


def exclusive_share(counts: Mapping[str, int]) -> float | None:
    """Share of live free features that are one source's alone, from counts by class."""
    exclusive = sum(counts[name] for name in EXCLUSIVE)
    return exclusive / (exclusive + counts[COMMON]) if exclusive + counts[COMMON] else None


def error_rates(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each recipe and control: its dictionaries, and the mean, lowest and highest exclusive share.

    `rows` as deletion.json has them: recipe, member, seed, sources, class, count. What other seeds and a
    rotated copy show as exclusive is false; what permuted rows do not is missed.
    """
    counts: dict[tuple, dict[str, int]] = {}
    for row in rows:
        control = control_of(row["sources"])
        if control:
            key = (row["recipe"], control, row["comparison"], row["member"], row["seed"])
            counts.setdefault(key, {})[row["class"]] = row["count"]
    shares: dict[tuple[str, str], list[float]] = {}
    for (recipe, control, *_), found in counts.items():
        share = exclusive_share(found)
        if share is not None:
            shares.setdefault((recipe, control), []).append(share)
    return [
        {"recipe": recipe, "control": control, "dictionaries": len(found),
         "exclusive": float(np.mean(found)), "lowest": min(found), "highest": max(found)}
        for (recipe, control), found in sorted(shares.items())
    ]  # fmt: skip
