"""Whether models move apart as a dose grows: several amounts of one thing, several models of each.

The distances are those of `kinds`: between usages of the features of one dictionary over all models. The
share of their sum of squares that lies along the logarithm of the dose is that of a regression on one number
(distance-based redundancy analysis, Legendre and Anderson 1999); its null exchanges the doses of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moediff.analysis import kinds
from moediff.core.errors import UserError

PERMUTED = 9999  # orders that the null is read off, beside the true one


def along(d2: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """Share [L] of the sum of squares of models at squared distances d2 [S, S] along amounts [L, S].

    x' G x / (x' x tr G), G the centred products that d2 stands for and x the amounts about their mean. 0
    where all models lie at one place.
    """
    count = len(d2)
    centre = np.eye(count) - 1 / count
    products = -centre @ d2 @ centre / 2
    total = float(np.trace(products))
    moved = amounts - amounts.mean(1, keepdims=True)
    if total <= 0:
        return np.zeros(len(moved))
    share: np.ndarray = ((moved @ products) * moved).sum(1) / ((moved**2).sum(1) * total)
    return share


def trend(
    explained: np.ndarray,
    names: Sequence[str],
    doses: Mapping[str, float],
    models: Mapping[str, Sequence[str]],
    seed: int = 0,
) -> dict[str, Any]:
    """The trend of a dictionary's sources with their dose, against orders drawn at random.

    `explained` [F, S] as of `kinds.usage`, its columns called `names`; `models` maps kinds to their sources,
    `doses` kinds to amounts above 0. `judged` has the share along the dose, the largest and the mean of
    PERMUTED other orders, and p, 1 / (PERMUTED + 1) at least. `rows` say of each kind how far it lies from
    the one of the smallest dose: the mean distance of their models, and the share of explained variance
    that their mean usages spend differently; and how far its own models lie from each other. A source in
    which nothing is explained leaves `unknown` alone, which says so.
    """
    if nothing := kinds.unexplained(explained, names):
        return {"unknown": f"no feature explains anything in {', '.join(nothing)}"}
    order = [name for members in models.values() for name in members]
    used = kinds.ordered_usage(explained, names, models)
    kind_of = np.array([kind for kind, members in models.items() for _ in members])
    amounts = np.log2([float(doses[kind]) for kind in kind_of])
    if len(set(amounts)) < 2:
        raise UserError("a trend needs two doses or more")
    d2 = kinds.hellinger(used)
    random = np.random.default_rng(seed)
    drawn = np.stack([amounts, *(random.permutation(amounts) for _ in range(PERMUTED))])
    shares = along(d2, drawn)
    distance = np.sqrt(d2)
    least = min(doses, key=lambda kind: doses[kind])
    first = kind_of == least

    def row(kind: str) -> dict[str, Any]:
        own = kind_of == kind
        among = distance[np.ix_(own, own)]
        pairs = own.sum() * (own.sum() - 1)
        return {
            "kind": kind,
            "dose": float(doses[kind]),
            "from_least": None if kind == least else float(distance[np.ix_(first, own)].mean()),
            "spent_differently": None
            if kind == least
            else float(kinds.total_variation(used[:, own | first], own[own | first][None])[0]),
            "within": float(among.sum() / pairs) if pairs else None,
        }

    return {
        "unknown": None,
        "sources": order,
        "squared_distances": d2.tolist(),
        "rows": [row(kind) for kind in sorted(models, key=lambda kind: doses[kind])],
        "judged": {
            "statistic": "along_dose",
            "observed": float(shares[0]),
            "largest_other": float(shares[1:].max()),
            "mean_other": float(shares[1:].mean()),
            "others": PERMUTED,
            "p": float((1 + (shares[1:] >= shares[0] - 1e-12).sum()) / (1 + PERMUTED)),
        },
    }
