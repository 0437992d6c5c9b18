"""What a panel could have seen: effects of known size planted into its rows, and the least that is found.

A try adds a signal of rank one where tokens are of a class (`activations.planting`), to the rows of the
models that another labelling than the true one calls the first kind: what the kinds themselves differ in
is then spread over both sides and cannot help. The dictionary is fitted anew and judged as the panel is.
Our definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moediff.analysis import differential, kinds, panel, permanova
from moediff.core.resampling import exact_p

ALPHA = 0.05  # p at which a statistic counts as having seen the effect
POWER = 0.8  # share of tries in which an effect that counts as detectable is seen
EXCLUSIVE, CATALOGUE = "exclusive", "catalogue"
STATISTICS = (*kinds.GRADED, EXCLUSIVE, CATALOGUE)
PLANTED, OTHERS = "planted", "others"  # the two sides of a try


def side_of_try(count: int, first: int, number: int) -> np.ndarray:
    """Which of `count` models the signal is planted in, [S] of bool: by a labelling that is not the true one.

    Those of all tries are drawn at random, and come again only when all have been taken; of equal halves
    either side is taken. Two models of one kind and one of the other are the fewest that have another.
    """
    labels = permanova.every_labelling(count, first)[1:]
    turn, place = divmod(number, len(labels))
    random = np.random.default_rng([count, first, turn])
    side = labels[random.permutation(len(labels))[place]]
    swapped = 2 * first == count and np.random.default_rng([count, number]).random() < 0.5
    return ~side if swapped else side


def shares_of_sources(side: np.ndarray, share: float, strength: float | None) -> list[float]:
    """Share of variance [S] that the signal has in each model: `share` where it is planted, and so many times
    less elsewhere; None: nothing there."""
    return [share if planted else (share / strength if strength else 0.0) for planted in side]


def judged(
    explained: np.ndarray, names: Sequence[str], side: np.ndarray, floor: float
) -> dict[str, dict[str, Any]]:
    """p of every statistic of the whole panel, the planted side called a kind; None where there is no p.

    `explained` [F, S] as of `kinds.usage`, its columns called `names`; `floor` as of `panel.users`.
    """
    called = sides(names, side)
    found = kinds.graded_usage(explained, names, called)
    rows = {row["statistic"]: row for row in found.get("judged", [])}
    seen = {name: _p(rows[name]) if name in rows else _p(None) for name in kinds.GRADED}
    order = [list(names).index(name) for members in called.values() for name in members]
    used = panel.users(explained[:, order], (explained != 0).any(1), floor)
    labels = permanova.every_labelling(len(names), int(side.sum()))
    counts = [int(_own(used, label).sum()) for label in labels]
    p, smallest = exact_p(counts[0], counts[1:])
    return seen | {EXCLUSIVE: _p({"p": p, "smallest_p": smallest}) | {"features": counts[0]}}


def sides(names: Sequence[str], side: np.ndarray) -> dict[str, list[str]]:
    """The two sides of a try, by name."""
    return {
        PLANTED: [name for name, planted in zip(names, side, strict=True) if planted],
        OTHERS: [name for name, planted in zip(names, side, strict=True) if not planted],
    }


def _own(used: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Which features [F] are used by just the sources of a label [S], or by just the others."""
    own: np.ndarray = (used == label).all(1) | (used == ~label).all(1)
    return own


def _p(row: Mapping[str, Any] | None) -> dict[str, Any]:
    if row is None:
        return {"p": None, "smallest_p": None, "seen": False}
    return {"p": row["p"], "smallest_p": row["smallest_p"], "seen": row["p"] <= ALPHA}


def carrier(part: np.ndarray, explained: np.ndarray, side: np.ndarray) -> dict[str, Any]:
    """The feature that gives back most of the signal where it is planted, and whether the catalogue has it.

    `part` [F, S] of `carried`. Seen: its q is at most `differential.Q`, the planted side using it more.
    """
    mean = part[:, side].mean(1)
    best = int(mean.argmax())
    used = kinds.usage(np.concatenate([explained[:, side], explained[:, ~side]], 1))
    table = differential.differential(used, int(side.sum()))
    row = table.filter(table["feature"] == best)
    q, t = (float(row[name][0]) if len(row) else None for name in ("q", "t"))
    seen = q is not None and t is not None and q <= differential.Q and t > 0
    return {
        "feature": best, "carries": float(mean[best]), "all_features_carry": float(mean.sum()),
        "q": q, "seen": seen,
    }  # fmt: skip


def least(tries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a statistic and strength: the least share of variance that is seen in POWER of its tries.

    A share counts if at it and at every larger one that was tried enough tries see the effect; `least` None:
    not even the largest. `seen` maps every share to how many of how many saw it, and `smallest_p` is the
    largest of the smallest p that labels allow: above ALPHA nothing can be seen.
    """
    found = []
    strengths = list(dict.fromkeys(one["strength"] for one in tries))
    for statistic in STATISTICS:
        for strength in strengths:
            own = [one for one in tries if one["strength"] == strength]
            seen: dict[float, list[bool]] = {}
            for one in own:
                seen.setdefault(one["share"], []).append(one["statistics"][statistic]["seen"])
            enough = None
            for share in sorted(seen, reverse=True):
                if np.mean(seen[share]) < POWER:
                    break
                enough = share
            smallest = [one["statistics"][statistic].get("smallest_p") for one in own]
            found.append(
                {
                    "statistic": statistic,
                    "strength": strength,
                    "least": enough,
                    "largest_tried": max(seen),
                    "smallest_p": max((p for p in smallest if p is not None), default=None),
                    "seen": [
                        {"share": share, "seen": sum(seen[share]), "tries": len(seen[share])}
                        for share in sorted(seen)
                    ],
                }
            )
    return found
