"""What the models of a panel spend explained variance on, kind against kind: a graded statistic.

The strict rule (`panel.py`) asks which features one kind uses and the other does not. Here every
difference counts by its size: the distance of two models is how differently their explained variance is
spread over the features, and labels are judged by how well they divide the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from moediff.analysis import permanova
from moediff.core.resampling import exact_p

GRADED = ("r2", "total_variation")  # statistics that must both tell kinds apart, or see an effect
AT_ONCE = 1024  # labellings whose mean usages are held in memory


def usage(explained: np.ndarray) -> np.ndarray:
    """Share [F, S] of what all features explain in a source that each does; a column sums to 1.

    `explained` [F, S] is the share of each source's variance that goes when the feature is deleted;
    below 0 counts as 0. A source in which nothing is explained has no usage: `unexplained` names it.
    """
    gained = explained.clip(0)
    return gained / gained.sum(0)


def ordered_usage(
    explained: np.ndarray, names: Sequence[str], kinds: Mapping[str, Sequence[str]]
) -> np.ndarray:
    """`usage` [F, S] in the order of `kinds`, of columns that are called `names`."""
    columns = [list(names).index(name) for members in kinds.values() for name in members]
    return usage(np.ascontiguousarray(explained[:, columns]))  # sums in one order, however it lies


def unexplained(explained: np.ndarray, names: Sequence[str]) -> list[str]:
    """The sources [S] in which no feature explains anything, or not a finite number."""
    total = explained.clip(0).sum(0)
    known = np.isfinite(total) & (total > 0)
    return [name for name, has in zip(names, known, strict=True) if not has]


def hellinger(used: np.ndarray) -> np.ndarray:
    """Squared Hellinger distance [S, S] of usages [F, S]: 1 - sum of sqrt(u_s u_t), from 0 to 1.

    As half the sum of (sqrt u_s - sqrt u_t)^2, which is 0 to the bit for equal columns.
    """
    root = np.sqrt(used)
    return np.stack([((root - root[:, [s]]) ** 2).sum(0) / 2 for s in range(used.shape[1])])


def total_variation(used: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share [L] of explained variance that two kinds spend differently, by labels [L, S] of bool.

    Half the sum over features of the absolute difference of the kinds' mean usages [F, S]. Noise adds
    to it and never takes away: it is read beside the same under other labels.
    """
    found = []
    for start in range(0, len(labels), AT_ONCE):
        side = labels[start : start + AT_ONCE]
        means = [(part / part.sum(1, keepdims=True)) @ used.T for part in (side, ~side)]  # [L, F]
        found.append(np.abs(means[0] - means[1]).sum(1) / 2)
    return np.concatenate(found)


def graded(d2: np.ndarray, kinds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """How well two kinds divide models by squared distances d2 [S, S], against every other labelling.

    `kinds` maps them to the names of their models, in the order of d2. In `judged` one row a statistic,
    as `judged` gives it: `r2`, `pseudo_f` and `dispersion_f` (module permanova); in `values` each under
    every labelling, the true one first, in the order of `every_labelling`. `between_over_within` is how
    many times as far apart two models of different kinds lie as two of one kind, `dispersion` how far
    models lie from their kind's centroid on average. None is an infinite number.
    """
    names = [name for members in kinds.values() for name in members]
    first = len(next(iter(kinds.values())))
    labels = permanova.every_labelling(len(names), first)
    true = labels[:1]
    apart, spread = permanova.r2(d2, labels), permanova.dispersion(d2, labels)
    pseudo_f, dispersion_f = (permanova.f_of(share, len(names)) for share in (apart, spread))
    distance = permanova.centroid_distances(d2, true)[0]
    sides = distance[:first], distance[first:]
    values = {"r2": apart, "pseudo_f": pseudo_f, "dispersion_f": dispersion_f}
    ranked = {"r2": apart, "pseudo_f": apart, "dispersion_f": spread}
    return {
        "sources": names,
        "squared_distances": d2.tolist(),
        "between_over_within": _finite(permanova.between_over_within(d2, true)[0]),
        "dispersion": {k: float(side.mean()) for k, side in zip(kinds, sides, strict=True)},
        "judged": [
            {"statistic": name} | judged(values[name], ranked[name], labels, names)
            for name in values
        ],
        "values": {name: list(map(_finite, found)) for name, found in values.items()},
    }


def graded_usage(
    explained: np.ndarray, names: Sequence[str], kinds: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """`graded` of the usages of a panel's models, and how much of them the kinds spend differently.

    `explained` [F, S] as of `usage`, its columns called `names`; `kinds` as of `graded`, in any order.
    `total_variation` is judged beside the others; `excess_over_mean` and `excess_over_median` are what
    it has more than under other labels. Where a source has no usage there is `unknown` alone, which
    says so.
    """
    if nothing := unexplained(explained, names):
        return {"unknown": f"no feature explains anything in {', '.join(nothing)}"}
    order = [name for members in kinds.values() for name in members]
    used = ordered_usage(explained, names, kinds)
    found = graded(hellinger(used), kinds)
    labels = permanova.every_labelling(len(order), len(next(iter(kinds.values()))))
    differs = total_variation(used, labels)
    row = {"statistic": "total_variation"} | judged(differs, differs, labels, order)
    for name in ("mean", "median"):
        row[f"excess_over_{name}"] = row["observed"] - row[f"{name}_other"]
    return found | {
        "unknown": None,
        "judged": [*found["judged"], row],
        "values": found["values"] | {"total_variation": differs.tolist()},
    }


def by_domain(
    used: np.ndarray, kinds: Mapping[str, Sequence[str]], domains: Sequence[str | None]
) -> list[dict[str, Any]]:
    """On what each kind spends more of its explained variance than the other, by top domain of the features.

    `used` [F, S] in the order of `kinds`, `domains` [F] the top domain of each feature (None: it has none).
    `more` is the sum of what a kind's mean usage has above the other's over the features of a domain: over
    all domains it is the total variation, for either kind. Without a difference there is no row.
    """
    first = len(next(iter(kinds.values())))
    difference = used[:, :first].mean(1) - used[:, first:].mean(1)  # [F]
    table = pl.DataFrame(
        {"domain": list(domains), "more": difference}, schema_overrides={"domain": pl.String}
    )
    found = []
    for kind, sign in zip(kinds, (1, -1), strict=True):
        own = table.select("domain", more=(sign * pl.col("more")).clip(0)).filter(
            pl.col("more") > 0
        )
        sums = own.group_by("domain").agg(pl.col("more").sum(), features=pl.len())
        for row in sums.sort("more", "domain", descending=[True, False]).iter_rows(named=True):
            found.append({"kind": kind, **row})
    return found


def graded_rows(
    similarities: pl.DataFrame, kinds: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """`graded` by each measure of how alike rows are, with no dictionary: of similarity.parquet's rows.

    One less the calibrated similarity is taken for a squared distance, as `similarity` says.
    """
    place = {
        name: s for s, name in enumerate(name for members in kinds.values() for name in members)
    }
    found = []
    for (measure,), part in similarities.group_by("measure", maintain_order=True):
        d2 = np.zeros((len(place), len(place)))
        for row in part.iter_rows(named=True):
            a, b = place[row["first"]], place[row["second"]]
            d2[a, b] = d2[b, a] = max(0.0, 1 - row["calibrated"])  # rounding passes 1
        found.append({"measure": measure} | graded(d2, kinds))
    return found


def judged(
    values: np.ndarray, ranked: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    """A statistic [L] under the true labels against all others; `ranked` [L] orders as it does, finitely.

    Its value, the largest, mean and median of the others, the sources of one side of the split that has
    the largest, the rank (1: no other divides as well), and the exact p. None is an infinite number.
    """
    p, smallest = exact_p(ranked[0], ranked[1:])
    most = 1 + int(ranked[1:].argmax())
    return {
        "observed": _finite(values[0]),
        "largest_other": _finite(values[most]),
        "largest_other_side": [
            name for name, first in zip(names, labels[most], strict=True) if first
        ],
        "mean_other": _finite(values[1:].mean()),
        "median_other": _finite(np.median(values[1:])),
        "others": len(values) - 1,
        "rank": round(p / smallest),
        "p": p,
        "smallest_p": smallest,
    }


def _finite(value: float) -> float | None:
    """A number for JSON, which has no infinite ones."""
    return float(value) if np.isfinite(value) else None
