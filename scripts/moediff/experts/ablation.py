"""What fewer experts cost: the loss of text where a token uses fewer, or another (MoE Lens, 2603.05806)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moediff.analysis.reruns import Pass
from moediff.core.errors import UserError
from moediff.experts.costs import Setting, costs
from moediff.hooks.routing import Change, alone, keep, routing
from moediff.models.families import Routed, routers, top_k

KEEP, SECOND, CHOSEN, ANY = KINDS = ("keep", "second", "random chosen", "random any")
ROUTED, RENORMALISED = WEIGHTS = ("routed", "renormalised")


def fewer_experts(
    runs: Iterable[Pass], each: Sequence[int], domains: Sequence[str], seed: int = 0
) -> pl.DataFrame:
    """What it costs to use k experts a token, from all to one, or one other in the place of the heaviest.

    `runs` are passes of one MoE. Columns: `kind` (of KINDS), `k`, `weights` (of WEIGHTS: gates as they are,
    or scaled so that their sum stays), `layer` (null: every MoE layer), then those of `costs`. With k from
    `each` also one layer at a time. The first rows are of the model as it is. Raises UserError where no
    layer has experts.
    """
    plain = _facts(KEEP, None, ROUTED)
    table = costs(runs, partial(settings, each=each, seed=seed), plain, domains)
    used = int(table["k"].max() or 0) + 1
    return table.with_columns(pl.col("k").fill_null(used))


def settings(model: PreTrainedModel, each: Sequence[int], seed: int = 0) -> list[Setting]:
    """All changes of an MoE, in every layer and then layer by layer."""
    layers, used = list(routers(model)), top_k(model)
    if not layers or used is None:
        raise UserError(f"{type(model).__name__}: no layer has experts")
    random = torch.Generator().manual_seed(seed)
    found = []
    for k in range(used - 1, 0, -1):
        for weights in WEIGHTS:
            found.append(_setting(_facts(KEEP, k, weights), keep(k, weights == RENORMALISED)))
    picks = {CHOSEN: _chosen(random), ANY: _any(random)}
    if used > 1:
        picks = {SECOND: _second, **picks}
    found += [_setting(_facts(name, 1, ROUTED), alone(pick)) for name, pick in picks.items()]
    for layer in layers:
        ks = (k for k in each if k < used)
        found += [_setting(_facts(KEEP, k, ROUTED, layer), keep(k), layer) for k in ks]
    return found


def _facts(kind: str, k: int | None, weights: str, layer: int | None = None) -> dict[str, Any]:
    return {"kind": kind, "k": k, "weights": weights, "layer": layer}


def _setting(facts: Mapping[str, Any], change: Change, layer: int | None = None) -> Setting:
    layers = None if layer is None else [layer]
    return Setting(facts, lambda model: routing(model, change, layers), layer)


def _second(routed: Routed) -> Tensor:
    order = routed.gates.argsort(dim=-1, descending=True, stable=True)
    return routed.experts.gather(-1, order[..., 1:2])


def _chosen(random: torch.Generator) -> Callable[[Routed], Tensor]:
    def pick(routed: Routed) -> Tensor:
        shape = (*routed.experts.shape[:-1], 1)
        some = torch.randint(routed.experts.shape[-1], shape, generator=random)
        return routed.experts.gather(-1, some.to(routed.experts.device))

    return pick


def _any(random: torch.Generator) -> Callable[[Routed], Tensor]:
    def pick(routed: Routed) -> Tensor:
        shape = (*routed.experts.shape[:-1], 1)
        some = torch.randint(routed.logits.shape[-1], shape, generator=random)
        return some.to(routed.experts.device)

    return pick
