"""How few experts a layer's routing goes to, by domain of text (MoE Lens, 2603.05806).

The share of an expert is that of tokens which use it: k / E each if routing were even, and k together. Two
things are called half of the routing, and both are given, since they are not alike. Half of the *tokens*:
the busiest experts of which at least one is used by half of the tokens. Half of the *slots*, of which a token
has k: the busiest experts whose shares sum to k / 2.

    E  experts      k  experts that a token uses      D  domains
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from moediff.core.errors import UserError
from moediff.core.terms import ALL

_ROUNDING = 1e-9  # of a sum of shares that is half to the last digit
MORE = 2  # times the even share, from which on an expert counts as preferred


def concentration(uses: np.ndarray, tokens: float, k: int) -> dict[str, float]:
    """Of experts that are used by `uses` [E] of so many tokens, k by each.

    - `busiest_share`: the largest share of tokens that use one expert;
    - `slots_of_busiest`: the share of slots that the k busiest experts have;
    - `experts_for_half_of_slots`: so many of the busiest have half of the slots;
    - `entropy`: of an expert's share of slots, over log E: 1 where routing is even;
    - `gini`: of the shares: 0 where routing is even, 1 - k / E where it is always the same k;
    - `preferred`: experts with more than twice the even share;
    - `unused`: experts that no token uses.

    Raises UserError where `uses` are not k a token.
    """
    if tokens <= 0 or not np.isclose(uses.sum(), k * tokens):
        raise UserError(
            f"{uses.sum():g} uses of experts by {tokens:g} tokens, of which each has {k}"
        )
    count = len(uses)
    share = np.sort(uses)[::-1] / tokens  # [E], the busiest first
    slots = share / k
    used = slots[slots > 0]
    rank = np.arange(1, count + 1)
    return {
        "busiest_share": float(share[0]),
        "slots_of_busiest": float(slots[:k].sum()),
        "experts_for_half_of_slots": half_of(np.cumsum(slots)),
        "entropy": float(-(used * np.log(used)).sum() / np.log(count)) if count > 1 else 1.0,
        "gini": float((count + 1 - 2 * (rank * slots).sum()) / count),
        "preferred": int((share > MORE * k / count).sum()),
        "unused": int((uses == 0).sum()),
    }


def half_of(reached: np.ndarray) -> int:
    """So many of the first have half of all: `reached` [E] is what the first 1, 2, ... have together."""
    return int((reached < 0.5 - _ROUNDING).sum()) + 1


def experts_for_half_of_tokens(experts: np.ndarray, count: int) -> int:
    """So many of the busiest of `count` experts that half of the tokens use one of them.

    `experts` [token, k]. Experts come by the number of tokens that use them, equal ones by number; another
    choice of as many could reach more.
    """
    order = np.argsort(-np.bincount(experts.ravel(), minlength=count), kind="stable")
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    first = rank[experts].min(axis=1)  # [token]: how many experts it takes to reach it, less one
    return half_of(np.cumsum(np.bincount(first, minlength=count)) / len(experts))


def uses_by(of: np.ndarray, parts: int, experts: np.ndarray, count: int) -> np.ndarray:
    """Tokens of each part that use each expert [part, E]: `of` [token] is a token's part, `experts` [token,
    k]."""
    key = of.astype(np.int64)[:, None] * count + experts
    return np.bincount(key.ravel(), minlength=parts * count).reshape(parts, count)


def layer_tables(
    experts: np.ndarray, gates: np.ndarray, domain: np.ndarray, names: Sequence[str], count: int
) -> tuple[dict[str, dict[str, float]], pl.DataFrame]:
    """One layer's concentration by domain and over all text, and the table of its experts.

    `experts` and `gates` [token, k], `domain` [token] by number of `names`. The table has a row for each
    domain, and all text, and each expert: `domain`, `expert`, `tokens` that use it, `share` of the domain's
    tokens, `gate`, the mean gate over them (null without any), `gate_share`, its share of the sum of gates.
    Domains without a token are left out.
    """
    k = experts.shape[1]
    found, rows = {}, []
    for name, here in _parts(domain, names):
        own, weight = experts[here], gates[here].astype(np.float64)
        uses = np.bincount(own.ravel(), minlength=count)
        sums = np.bincount(own.ravel(), weight.ravel(), count)
        found[name] = concentration(uses, len(own), k) | {
            "tokens": len(own),
            "experts_for_half_of_tokens": experts_for_half_of_tokens(own, count),
        }
        with np.errstate(invalid="ignore"):
            gate = sums / uses
        total = sums.sum()
        rows.append(
            pl.DataFrame(
                {
                    "domain": [name] * count,
                    "expert": np.arange(count),
                    "tokens": uses,
                    "share": uses / len(own),
                    "gate": gate,
                    "gate_share": sums / total if total else np.zeros(count),
                }
            ).with_columns(pl.col("gate").fill_nan(None))
        )
    return found, pl.concat(rows)


def _parts(domain: np.ndarray, names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """All tokens, and those of each domain that has one: name, and places."""
    parts = [(ALL, np.arange(len(domain)))]
    parts += [(name, np.flatnonzero(domain == number)) for number, name in enumerate(names)]
    return [(name, here) for name, here in parts if len(here)]


def co_activation(experts: np.ndarray, count: int) -> pl.DataFrame:
    """How often two experts are used by one token: a row for each pair, the first of the lower number.

    `expert`, `other`, `together`: the share of tokens [token, k] that use both; `expected`: that of
    independent choices by the two shares; (k (k - 1)) / (E (E - 1)) each where choices are even.
    """
    tokens, k = experts.shape
    share = np.bincount(experts.ravel(), minlength=count) / tokens
    together = np.zeros(count * count)
    for one in range(k):
        for other in range(one + 1, k):
            low = np.minimum(experts[:, one], experts[:, other]).astype(np.int64)
            high = np.maximum(experts[:, one], experts[:, other])
            together += np.bincount(low * count + high, minlength=count * count)
    first, second = np.triu_indices(count, 1)
    return pl.DataFrame(
        {
            "expert": first,
            "other": second,
            "together": together.reshape(count, count)[first, second] / tokens,
            "expected": share[first] * share[second],
        }
    )


def router_cosine(weight: np.ndarray) -> dict[str, float]:
    """How alike the rows [E, d_model] of a router are: mean, mean size and largest cosine of two experts.

    Random rows have a mean of 0 and a mean size of about (2 / (pi d_model)) ** 0.5.
    """
    norms = np.linalg.norm(weight, axis=1)
    live = weight[norms > 0] / norms[norms > 0, None]
    cosine = (live @ live.T)[np.triu_indices(len(live), 1)]
    if not len(cosine):
        return {}
    return {
        "mean": float(cosine.mean()),
        "mean_size": float(np.abs(cosine).mean()),
        "largest": float(cosine.max()),
    }


def overlap(shares: Mapping[str, np.ndarray], k: int) -> dict[str, float]:
    """Of each two domains "a, b" the Jaccard index of their k busiest experts, from shares [E] of each."""
    busiest = {
        name: set(np.argsort(-share, kind="stable")[:k].tolist()) for name, share in shares.items()
    }
    names = list(busiest)
    return {
        f"{one}, {other}": len(busiest[one] & busiest[other]) / len(busiest[one] | busiest[other])
        for place, one in enumerate(names)
        for other in names[place + 1 :]
    }
