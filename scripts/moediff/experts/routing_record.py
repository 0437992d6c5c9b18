"""All that stored routing tells of one MoE: `concentration`, `domain_information` and `signatures`, layer by
layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from torch import Tensor

from moediff.activations.shards import Shard
from moediff.core.errors import UserError
from moediff.core.terms import ALL
from moediff.experts import concentration, domain_information, signatures

SLOW_SHUFFLES = (
    20  # of nulls that need a pass over all tokens each: only their mean and sd are used
)
__all__ = ["ALL", "RoutedText", "Told", "measured", "read"]


@dataclass(frozen=True)
class RoutedText:
    """Tokens and how one MoE routed them; the rows of its shards, in order."""

    count: int  # experts of a layer, E
    layers: Mapping[int, tuple[np.ndarray, np.ndarray]]  # experts and gates [token, k] of each
    token: np.ndarray  # [token], ids
    group: np.ndarray  # [token], of documents
    domain: np.ndarray  # [token], number of one of `domains`
    domains: Sequence[str]


class Told(NamedTuple):
    """What was measured of one MoE."""

    record: dict[str, Any]  # `rows`, `information`, `overlap`, `router`, `signature`
    shares: pl.DataFrame  # experts of each layer and domain
    pairs: pl.DataFrame  # of experts of each layer


def read(paths: Sequence[Path | str], count: int, tokens: int | None = None) -> RoutedText:
    """The routing that shards of one MoE of so many experts hold, of the first `tokens` (None: all).

    In memory 16 bytes a token, and 12 for each expert that it used in each layer.
    """
    parts: list[tuple[Shard, int]] = []
    for path in paths:
        shard, left = Shard(path), None if tokens is None else tokens - sum(n for _, n in parts)
        parts.append((shard, shard.count if left is None else min(left, shard.count)))
        if left is not None and left <= shard.count:
            break

    def column(name: str) -> np.ndarray:
        return np.concatenate([shard.read(name, 0, rows) for shard, rows in parts])

    first = parts[0][0]
    layers = {
        layer: (column(f"experts.{layer}").astype(np.int64), column(f"gates.{layer}"))
        for layer in first.routed()
    }
    return RoutedText(
        count, layers, column("token"), column("group"), column("domain").astype(np.int64),
        first.facts["domains"],
    )  # fmt: skip


def measured(text: RoutedText, weights: Mapping[int, Tensor], shuffles: int) -> Told:
    """Every number of `results/routing.json` of one MoE; `weights` [E, d_model] of each layer's router.

    Raises UserError where an expert's number is not below the count.
    """
    groups, of = np.unique(text.group, return_inverse=True)
    first = np.unique(of, return_index=True)[1]
    domain = text.domain[first]  # [group]
    rows, information, overlap, shares, pairs, signature = [], [], [], [], [], []
    for layer, (experts, gates) in text.layers.items():
        if experts.max(initial=0) >= text.count:
            raise UserError(f"layer {layer}: expert {experts.max()}, where there are {text.count}")
        found, table = concentration.layer_tables(
            experts, gates, text.domain, text.domains, text.count
        )
        rows += [{"layer": layer, "domain": name} | row for name, row in found.items()]
        shares.append(table.select(pl.lit(layer).alias("layer"), pl.all()))
        pair = concentration.co_activation(experts, text.count)
        pairs.append(pair.select(pl.lit(layer).alias("layer"), pl.all()))
        uses = concentration.uses_by(of, len(groups), experts, text.count)  # [group, E]
        signature.append(uses / uses.sum(1, keepdims=True))
        held = {name: part["share"].to_numpy() for (name,), part in table.group_by("domain")}
        both = concentration.overlap(
            {name: held[name] for name in text.domains if name in held}, experts.shape[1]
        )
        overlap += [
            {"layer": layer, "domains": name, "overlap": share} for name, share in both.items()
        ]
        information += [
            {"layer": layer, "of": name} | told
            for name, told in _information(text, experts, of, uses, domain, shuffles).items()
        ]
    k = next((experts.shape[1] for experts, _ in text.layers.values()), 0)
    told = {}
    if signature:
        tokens = np.bincount(of)
        told = signatures.signature_accuracy(np.concatenate(signature, 1), tokens, domain, shuffles)
    record = {
        "experts": text.count,
        "used": k,
        "even_share": k / text.count if text.count else None,
        "rows": rows,
        "information": information,
        "overlap": overlap,
        "router": [
            {"layer": layer} | concentration.router_cosine(weight.detach().double().cpu().numpy())
            for layer, weight in weights.items()
        ],
        "signature": told,
    }
    return Told(record, _joined(shares), _joined(pairs))


def _information(
    text: RoutedText,
    experts: np.ndarray,
    of: np.ndarray,
    uses: np.ndarray,
    domain: np.ndarray,
    shuffles: int,
) -> dict[str, dict[str, Any]]:
    """What the experts of a layer tell: of domains where there are two, of tokens, and of domains within
    tokens."""
    slow = min(shuffles, SLOW_SHUFFLES)
    found = {"token": domain_information.token_information(experts, text.token, text.count, slow)}
    if len(np.unique(domain)) > 1:
        found["domain"] = domain_information.domain_information(uses, domain, shuffles)
        found["domain within token"] = domain_information.domain_information_within_tokens(
            experts, text.token, of, domain, text.count, slow
        )
    return found


def _joined(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(tables) if tables else pl.DataFrame({"layer": []}, schema={"layer": pl.Int64})
