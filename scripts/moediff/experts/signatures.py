"""Can the domain of a text be told from its routing alone? (routing signatures, 2603.11114)

The signature of a group of documents is how often its tokens use each expert of each layer. A group is given
the domain whose other groups are nearest on the mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moediff.core.resampling import exact_p
from moediff.core.terms import ABOVE

LEAST_TOKENS = 32  # of a group: fewer have no histogram to speak of
LENGTHS = 5  # classes of groups by length, within which the null shuffles


def signature_accuracy(
    shares: np.ndarray, tokens: np.ndarray, domain: np.ndarray, shuffles: int, seed: int = 0
) -> dict[str, Any]:
    """Leave-one-out accuracy of nearest centroids, and its null; empty where two domains have not two groups.

    `shares` [group, layer x expert], `tokens` and `domain` [group]. By cosine of signatures that are centred
    on the mean of all groups. `accuracy` is the mean over domains, so that chance is 1 / D; the null shuffles
    domains among groups of like length, since short texts are noisy and domains differ in length.
    """
    long = np.flatnonzero(tokens >= LEAST_TOKENS)
    domain = domain[long]
    names, sizes = np.unique(domain, return_counts=True)
    kept = np.isin(domain, names[sizes > 1])
    long, domain = long[kept], np.unique(domain[kept], return_inverse=True)[1]
    if not len(long) or domain.max() < 1:
        return {}
    values = shares[long] - shares[long].mean(0)
    random = np.random.default_rng([seed, 4])
    order = np.argsort(tokens[long], kind="stable")
    null = np.empty(shuffles)
    for number in range(shuffles):
        shuffled = domain.copy()
        for some in np.array_split(order, LENGTHS):
            shuffled[some] = random.permutation(domain[some])
        null[number] = _accuracy(values, shuffled)
    value = _accuracy(values, domain)
    p, smallest = exact_p(value, null)
    return {
        "accuracy": value,
        "chance": 1 / (int(domain.max()) + 1),
        "null": {"mean": float(null.mean()), "q95": float(np.quantile(null, 0.95))},
        "p": {ABOVE: p, "smallest": smallest},
        "groups": np.bincount(domain).tolist(),
    }


def _accuracy(values: np.ndarray, domain: np.ndarray) -> float:
    """Mean over domains of the share of groups nearest to their own, from values [group, n]."""
    count = int(domain.max()) + 1
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, domain, values)
    size = np.bincount(domain, minlength=count)
    centre = sums / size[:, None]  # [D, n]
    # The cosine's sign and order over domains need the centroid's norm alone.
    near = values @ centre.T / _norms(centre)  # [group, D]
    own = (sums[domain] - values) / (size[domain] - 1)[:, None]  # without the group itself
    near[np.arange(len(domain)), domain] = (values * own).sum(1) / _norms(own)
    right = near.argmax(1) == domain
    return float(np.mean([right[domain == name].mean() for name in range(count)]))


def _norms(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1)
    return np.where(norms > 0, norms, 1.0)
