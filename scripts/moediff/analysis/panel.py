"""The panel: one dictionary over several models of two kinds, judged by every other way to label them.

A feature's *users* are the sources in which it explains a share of variance worth the name. Features
used by every model of one kind and by none of the other are that kind's own. How many there would be
by chance is read off the same dictionary, from all other splits of its models into two kinds (our
definition; the paper of crosscoders compares one pair and has no null).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from moediff.core.bootstrap import LEAST_GROUPS, Units, group_interval
from moediff.core.resampling import exact_p, labellings, null_median, zero_bound
from moediff.core.terms import EITHER

REST = -1  # group of features whose users are no group that is asked about


def users(alone: np.ndarray, alive: np.ndarray, floor: float) -> np.ndarray:
    """Which sources use a feature: [F, S] of bool.

    `alone` [F, S] is the share of each source's variance that goes when the feature is deleted,
    `alive` [F] whether it fires. A source uses it where that share is at least `floor` times an
    equal part of the feature's sum over sources (our definition).
    """
    gained = alone.clip(0)
    total = gained.sum(1, keepdims=True)
    return (gained * alone.shape[1] >= floor * total) & (gained > 0) & alive[:, None]


@dataclass(frozen=True)
class Groups:
    """Sets of sources, and the features whose users they are."""

    sets: list[tuple[int, ...]]  # numbers of the sources of each group, rising
    group_of: np.ndarray  # [F]: number of the group, or REST

    def count(self, group: int) -> int:
        return int((self.group_of == group).sum())


def group(used: np.ndarray, first: int) -> Groups:
    """Features by user set: all sources, each alone, and every set as large as one of two kinds.

    `used` [F, S]; the first kind has `first` of the S sources.
    """
    count = used.shape[1]
    sets = dict.fromkeys([tuple(range(count))] + [(s,) for s in range(count)])
    sets |= dict.fromkeys(
        side for split in labellings(count, first) for side in _sides(split, count)
    )
    number = {side: n for n, side in enumerate(sets)}
    found = [number.get(tuple(np.flatnonzero(row)), REST) for row in used]
    return Groups(list(sets), np.array(found))  # all sources are group 0


def _sides(first: Sequence[int], count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    second = tuple(s for s in range(count) if s not in set(first))
    return tuple(first), second


def panel_rows(groups: Groups, together: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """One row a group: its sources, features, and the mean share of their variance that goes with it.

    `together` [group, S] is the share of each source's variance that goes when the whole group is
    deleted.
    """
    return [
        {
            "sources": [names[s] for s in members],
            "features": groups.count(number),
            "share": float(together[number, list(members)].mean()),
        }
        for number, members in enumerate(groups.sets)
    ]


def splits(
    rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Every way to call the models by the names of the two kinds, the true one first.

    `rows` as `panel_rows` gives them; `kinds` maps the two kinds to the names of their sources. Of
    each kind: the sources so called, and the features and share of variance that are their own.
    """
    own = {frozenset(row["sources"]): row for row in rows}
    (a, first), (b, second) = kinds.items()
    every = [*first, *second]
    found = []
    for chosen in labellings(len(every), len(first)):
        sides = zip((a, b), _sides(chosen, len(every)), strict=True)
        found.append({kind: dict(own[frozenset(every[s] for s in side)]) for kind, side in sides})
    return found


def null_rows(
    rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """One row a labelling and side: share, features, and whether the labels are the true ones.

    Arguments as of `splits`. Both sides together, called EITHER, stand once a split, since to
    exchange the names of its sides changes nothing: their features are summed, shares averaged.
    """
    found = []
    once: set[frozenset] = set()
    for number, split in enumerate(splits(rows, kinds)):
        sides = [(kind, [side]) for kind, side in split.items()]
        key = frozenset(tuple(side["sources"]) for side in split.values())
        if key not in once:
            sides.append((EITHER, list(split.values())))
        once.add(key)
        found += [
            {
                "side": name,
                "share": sum(side["share"] for side in parts) / len(parts),
                "features": sum(side["features"] for side in parts),
                "true": number == 0,
            }
            for name, parts in sides
        ]
    return found


def drawn_rows(
    dictionary: str, rows: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]]
) -> pl.DataFrame:
    """Rows of `null_rows` for a chart: under the true labels each share with its interval, low and high."""
    known = {row["kind"]: row["interval"] for row in judged if row.get("interval")}
    bounds = [known.get(row["side"]) if row["true"] else None for row in rows]
    return pl.DataFrame(
        [
            {"dictionary": dictionary, **row, "low": found and found[0], "high": found and found[1]}
            for row, found in zip(rows, bounds, strict=True)
        ],
        schema_overrides={"low": pl.Float64, "high": pl.Float64},
    )


def judge(
    rows: Sequence[Mapping[str, Any]],
    kinds: Mapping[str, Sequence[str]],
    intervals: Mapping[str, list[float] | None] | None = None,
) -> list[dict[str, Any]]:
    """What each kind has of its own, and both together, against every other labelling.

    Arguments as of `splits`. Of each statistic: its value under the true labels, the largest and the
    median under others, and the exact p; of the share its interval, where `intervals` have one by kind.
    """
    found = null_rows(rows, kinds)
    return [
        {"kind": kind, "statistic": statistic}
        | _against([row[statistic] for row in found if row["side"] == kind])
        | ({"interval": intervals[kind]} if intervals and statistic == "share" else {})
        for kind in (*kinds, EITHER)
        for statistic in ("share", "features")
    ]


def counts(groups: Groups, kinds: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Features that all sources use, and that each kind alone does: what is asked whether it still moves."""
    sizes = [len(names) for names in kinds.values()]
    own = own_groups(groups, sizes[0], sum(sizes))
    return {"all": groups.count(0)} | {
        kind: groups.count(number) for kind, number in zip(kinds, own, strict=True)
    }


def own_groups(groups: Groups, first: int, count: int) -> list[int]:
    """The group of each kind's own features; the first kind has `first` of `count` sources."""
    return [groups.sets.index(side) for side in _sides(range(first), count)]


def text_intervals(
    lost: np.ndarray, held: np.ndarray, units: Units, kinds: Mapping[str, Sequence[str]]
) -> dict[str, list[float] | None]:
    """Interval of the share that goes with each kind's own features, and of the mean of both.

    Groups of validation documents are resampled; the models, the dictionary, and whose its features are,
    stay as they are. A kind without any lost nothing in n groups, and has the bound of `zero_bound`. Of a
    side's sources the sums are averaged before their ratio.
    `lost` [kind, n, S] is what goes with them in `units` [n], `held` [n, S] what there is, both as
    shares of a source's sum over all text. None where groups of documents are too few.
    """
    first = len(next(iter(kinds.values())))
    sides = [range(first), range(first, held.shape[1])]
    gone = np.stack([part[:, side].mean(1) for part, side in zip(lost, sides, strict=True)])
    there = np.stack([held[:, side].mean(1) for side in sides])  # [kind, n]
    names = dict(zip(kinds, zip(gone, there, strict=True), strict=True))
    names[EITHER] = gone.mean(0), there.mean(0)
    return {name: _interval(*pair, units) for name, pair in names.items()}


def _interval(lost: np.ndarray, held: np.ndarray, units: Units) -> list[float] | None:
    count = units.size()
    if not lost.any() and count >= LEAST_GROUPS:
        return [0.0, zero_bound(count)]
    return group_interval(lost, held, units)


def _against(values: Sequence[float]) -> dict[str, Any]:
    observed, others = values[0], values[1:]
    p, smallest = exact_p(observed, others)
    return {
        "observed": observed,
        "largest_other": max(others),
        "median_other": null_median(others),
        "others": len(others),
        "p": p,
        "smallest_p": smallest,
    }


def own_domains(
    used: np.ndarray, sum_explained: np.ndarray, top: Sequence[str | None], first: int
) -> list[dict[str, Any]]:
    """Of each kind: the domains in which its own features are densest.

    `used` [F, S] of bool, `sum_explained` [F] what a feature explains in all sources, `top` [F] its top
    domain, `first` the number of sources of the first kind. `features` counts its own features by top
    domain, `explained` is their share of what they explain together.
    """
    kinds = np.arange(used.shape[1]) < first
    found = []
    for kind in (kinds, ~kinds):
        own = np.flatnonzero((used == kind).all(1))
        features: dict[str, int] = {}
        explained: dict[str, float] = {}
        for feature in own.tolist():
            domain = top[feature] or "unknown"
            features[domain] = features.get(domain, 0) + 1
            explained[domain] = explained.get(domain, 0.0) + float(sum_explained[feature])
        total = sum(explained.values())
        shares = {domain: value / total for domain, value in explained.items()} if total else {}
        found.append({"features": features, "explained": shares})
    return found


def by_users(used: np.ndarray) -> list[int]:
    """Features [S + 1] by how many sources use them."""
    return np.bincount(used.sum(1), minlength=used.shape[1] + 1).tolist()
