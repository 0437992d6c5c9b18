"""From what was measured of an MoE's experts to one number a metric of `claims.OF_EXPERTS`.

Each is of one seed of one MoE; a finding is their mean, with an interval over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from moediff.core.resampling import LEVEL, t_quantile
from moediff.core.terms import ALL
from moediff.experts.ablation import KEEP
from moediff.experts.lens import ALONE, CHOSEN, ROUTED, STREAM, TOP

WITHIN_TOKEN = "domain within token"  # of `routing_record`


def expert_values(
    lens: pl.DataFrame, fewer: pl.DataFrame, routing: Mapping[str, Any]
) -> dict[str, float]:
    """Every metric of one seed; NaN where it has none (few experts a token, no routing stored, one domain).

    `lens` as `lens.expert_lens` gives it, `fewer` as `ablation.fewer_experts`, `routing` the record of
    `routing_record`.
    """
    read = lens.filter((pl.col("domain") == ALL) & (pl.col("weights") == ROUTED))
    heaviest = read.filter((pl.col("term") == TOP) & (pl.col("experts") == 1))
    chosen = read.filter((pl.col("term") == CHOSEN) & (pl.col("stream") == ALONE))
    alone, beside = (heaviest.filter(pl.col("stream") == part) for part in (ALONE, STREAM))
    cost = dict(_kept(fewer).select("k", "cost").iter_rows())
    by_domain = [row for row in routing["rows"] if row["domain"] != ALL]
    told = [row for row in routing["information"] if row["of"] == WITHIN_TOKEN]
    return {
        "one_expert_cost": cost[1],
        "cost_fall_an_expert": _fall(cost),
        "top1_cosine_with_stream": float(beside["cosine"].max()),
        "top1_cosine_with_layer": float(beside["cosine_layer"].max()),
        "top1_cosine_over_chosen": float(alone["cosine"].mean() - chosen["cosine"].mean()),
        "busiest_expert_tokens": max((row["busiest_share"] for row in by_domain), default=math.nan),
        "experts_for_half_of_slots": _mean(
            [row["experts_for_half_of_slots"] / routing["experts"] for row in by_domain]
        ),
        "domain_information_within_token": _mean([row["corrected"] for row in told]),
    }


def loss(fewer: pl.DataFrame) -> float:
    """Nats a token of the model as it is, in a table of `ablation.fewer_experts`."""
    return float(_kept(fewer).sort("k")["cross_entropy"][-1])


def _kept(fewer: pl.DataFrame) -> pl.DataFrame:
    """Rows of so many experts in every layer, gates as they are, over all text."""
    return fewer.filter(
        (pl.col("kind") == KEEP)
        & (pl.col("domain") == ALL)
        & (pl.col("weights") == ROUTED)
        & pl.col("layer").is_null()
    )


def expert_findings(seeds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Mean of each metric over seeds, with Student's interval where there are two or more; its values beside.

    A metric that some seed has no value of is left out.
    """
    found = {}
    for metric in seeds[0] if seeds else ():
        values = np.array([seed[metric] for seed in seeds])
        if not np.isfinite(values).all():
            continue
        found[metric] = {"estimate": float(values.mean()), "by_seed": values.tolist()}
        if len(values) > 1:
            half = t_quantile(LEVEL, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
            found[metric]["interval"] = [float(values.mean() + side * half) for side in (-1, 1)]
    return found


def _fall(cost: Mapping[int, float]) -> float:
    """Mean log of cost(k) / cost(k + 1), k from 2 on as far as k + 1 is not all; NaN without one, or where a
    cost is none."""
    steps = [(cost[k], cost[k + 1]) for k in range(2, max(cost) - 1)]
    if not steps or min(map(min, steps)) <= 0:
        return math.nan
    return float(np.mean([math.log(one / other) for one, other in steps]))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
