"""What an expert that a token uses tells of the text's domain, and of the token; and what of that is chance.

In nats, of a slot drawn at random: a token has k, and each is its expert's. Tokens of one document are not
independent, nor are documents of one group: so where domains are shuffled for a null, or text is drawn anew
for an interval, a group of documents goes as a whole. Information is never below 0 and grows with the number
of its cells, so what counts is what lies above the mean of its null.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moediff.core.bootstrap import LEAST_GROUPS
from moediff.core.errors import UserError
from moediff.core.resampling import LEVEL, exact_p, t_quantile
from moediff.core.terms import ABOVE


def expert_and_domain(uses: np.ndarray, domain: np.ndarray) -> float:
    """I(expert; domain) of domains that weigh the same, from groups' counts (MoE Lens, 2603.05806).

    `uses` [group, E], `domain` [group] from 0. P(expert | domain) is the expert's share of the
    domain's slots. At most the logarithm of the number of domains, where no expert serves two.
    """
    count = int(domain.max()) + 1
    by_domain = np.zeros((count, uses.shape[1]))
    np.add.at(by_domain, domain, uses)
    total = by_domain.sum(1, keepdims=True)
    held = by_domain[total[:, 0] > 0] / total[total > 0][:, None]  # [D, E]
    return float(_plogp(held).sum() / len(held) - _plogp(held.mean(0)).sum())


def domain_information(
    uses: np.ndarray, domain: np.ndarray, shuffles: int, seed: int = 0
) -> dict[str, Any]:
    """`expert_and_domain`, its null under shuffled domains of groups, and its interval.

    `information`, `null` (`mean`, `sd`, `q95`), `corrected` by the null's mean, `p` (above, exact for so
    many shuffles), `interval` (of what an endless text would tell), `most` (log of the number of domains),
    `groups` of each. Raises UserError for fewer than two domains.
    """
    domain = np.unique(domain, return_inverse=True)[1]
    count = int(domain.max(initial=-1)) + 1
    if count < 2:
        raise UserError(f"{count} domain: what experts tell of domains needs two")
    random = np.random.default_rng([seed, 0])
    value = expert_and_domain(uses, domain)
    null = np.array([expert_and_domain(uses, random.permutation(domain)) for _ in range(shuffles)])
    return _told(value, null) | {
        "most": float(np.log(count)),
        "interval": _interval(uses, domain),
        "groups": np.bincount(domain).tolist(),
    }


def _interval(uses: np.ndarray, domain: np.ndarray) -> list[float] | None:
    """Of what an endless text would tell: groups left out one by one, domain by domain (stratified
    jackknife).

    The jackknife also takes off what few groups add to information: its own centre, and not the plain value,
    is that of the interval. None where a domain has fewer than LEAST_GROUPS groups.
    """
    sizes = np.bincount(domain)
    if sizes.min() < LEAST_GROUPS:
        return None
    value = expert_and_domain(uses, domain)
    totals = np.zeros((len(sizes), uses.shape[1]))
    np.add.at(totals, domain, uses)
    left = np.empty(len(domain))
    for group, (own, name) in enumerate(zip(uses, domain, strict=True)):
        totals[name] -= own
        left[group] = expert_and_domain(totals, np.arange(len(sizes)))
        totals[name] += own
    means = np.bincount(domain, left) / sizes
    centre = value + ((sizes - 1) * (value - means)).sum()
    parts = (sizes - 1) / sizes * np.bincount(domain, (left - means[domain]) ** 2)
    freedom = parts.sum() ** 2 / max((parts**2 / (sizes - 1)).sum(), 1e-300)
    reach = t_quantile(LEVEL, max(freedom, 1.0)) * parts.sum() ** 0.5
    return [float(centre - reach), float(centre + reach)]


def token_information(
    experts: np.ndarray, token: np.ndarray, count: int, shuffles: int, seed: int = 0
) -> dict[str, Any]:
    """I(expert; token id) of `experts` [token, k] of so many and ids `token` [token].

    Null: the experts of tokens shuffled over all tokens. As `domain_information`, without an interval.
    """
    random = np.random.default_rng([seed, 2])
    ids = np.unique(token, return_inverse=True)[1].astype(np.int64)
    used = _plogp(np.bincount(experts.ravel(), minlength=count)).sum()
    seen = _plogp(experts.shape[1] * np.bincount(ids)).sum()
    slots = experts.size

    def value(chosen: np.ndarray) -> float:
        both = _joint(ids[:, None] * count + chosen)
        return float((both - used - seen + _plogp(np.array(slots))) / slots)

    null = np.array([value(experts[random.permutation(len(experts))]) for _ in range(shuffles)])
    return _told(value(experts), null)


def domain_information_within_tokens(
    experts: np.ndarray,
    token: np.ndarray,
    group: np.ndarray,
    domain: np.ndarray,
    count: int,
    shuffles: int,
    seed: int = 0,
) -> dict[str, Any]:
    """I(expert; domain | token id): what experts tell of domains beyond which words a domain has.

    `experts` [token, k] of so many; `token`, `group` [token], `group` from 0, and `domain` [group]. The mean
    over tokens of what the expert tells within the token's id: domains weigh by their tokens. Null: domains
    of groups shuffled.
    """
    random = np.random.default_rng([seed, 3])
    ids = np.unique(token, return_inverse=True)[1].astype(np.int64)
    k, slots = experts.shape[1], experts.size
    domains = int(domain.max()) + 1
    seen = _plogp(k * np.bincount(ids)).sum()
    used = _joint(ids[:, None] * count + experts)

    def value(of: np.ndarray) -> float:
        cell = ids * domains + of[group]  # [token]
        apart = _plogp(k * np.unique(cell, return_counts=True)[1]).sum()
        return float((_joint(cell[:, None] * count + experts) + seen - apart - used) / slots)

    null = np.array([value(random.permutation(domain)) for _ in range(shuffles)])
    return _told(value(domain), null)


def _told(value: float, null: np.ndarray) -> dict[str, Any]:
    p, smallest = exact_p(value, null)
    return {
        "information": value,
        "null": {
            "mean": float(null.mean()),
            "sd": float(null.std(ddof=1)),
            "q95": float(np.quantile(null, 0.95)),
        },
        "corrected": value - float(null.mean()),
        "p": {ABOVE: p, "smallest": smallest},
    }


def _plogp(counts: np.ndarray) -> np.ndarray:
    """c log c, 0 at 0."""
    counts = np.asarray(counts, np.float64)
    return counts * np.log(counts, where=counts > 0, out=np.zeros_like(counts))


def _joint(keys: np.ndarray) -> float:
    """The sum of c log c over how often each key comes."""
    return float(_plogp(np.unique(keys, return_counts=True)[1]).sum())
