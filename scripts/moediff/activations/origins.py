"""Where rows are from, and the proof that two sources have the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moediff.activations.shards import COLUMNS, EXTERNAL, Shard
from moediff.core.errors import UserError


def origin(shard: Shard, point: str) -> dict[str, Any]:
    stored = shard.points[point]
    return {"model": shard.facts["model"], "hook": stored["hook"], "exponent": stored["exponent"]}


def refuse_two_origins(shards: Sequence[Shard], point: str) -> None:
    origins = [origin(shard, shard.point(point)) for shard in shards]
    if any(origin != origins[0] for origin in origins):
        folder = shards[0].path.parent
        raise UserError(
            f"{folder}: its shards come from two models or hook points; to rebuild them, run: "
            f"rm -r '{folder}' and then the same snakemake command again"
        )


def prove_aligned(own: Shard, other: Shard) -> None:
    """Raise UserError unless two shards' rows are the same text in the same places, domains and groups.

    Of one tokenizer they must be the same tokens; of two, end at the same characters. External rows
    that tell no groups take those of the other.
    """
    tokenizers = {own.facts["tokenizer"], other.facts["tokenizer"]} - {None}
    digest = "tokens_digest" if len(tokenizers) < 2 else "places_digest"
    domains, others = own.facts["domains"], other.facts["domains"]
    groups = {own.facts["groups_digest"], other.facts["groups_digest"]} - {None}
    if own.facts[digest] != other.facts[digest]:
        odd = f"hold different tokens ({_first_difference(own, other)})"
    elif domains != others:
        odd = f"name their domains differently ({', '.join(domains)} and {', '.join(others)})"
    elif len(groups) > 1:
        odd = f"put documents into different groups ({_first_difference(own, other)})"
    else:
        return
    external = EXTERNAL in own.points or EXTERNAL in other.points
    advice = (
        "write both from the same rows in the same order"
        if external
        else "remove both and run the same snakemake command again"
    )
    raise UserError(
        f"{own.path} and {other.path} {odd}, so their rows cannot be compared; {advice}"
    )


def _first_difference(own: Shard, other: Shard) -> str:
    if own.count != other.count:
        return f"{own.count} rows and {other.count}"
    ours, theirs = np.argsort(own.order()), np.argsort(other.order())
    told = own.facts["groups_digest"] and other.facts["groups_digest"]
    for name in COLUMNS if told else [name for name in COLUMNS if name != "group"]:
        values, others = own.read(name)[ours], other.read(name)[theirs]
        differs = values != others
        if differs.any():
            row = int(differs.argmax())
            return f"{name} of row {row}: {values[row]} and {others[row]}"
    return "columns of different types"
