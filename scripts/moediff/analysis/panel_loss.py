"""What a group of a panel's features is worth to the loss, as `panel` says it of the variance.

The model of every source runs with the whole reconstruction in place, and with the reconstruction
without one group of features. Of the loss that the reconstruction recovers against mean ablation,

    share = (without the group - spliced) / (mean - spliced)

goes with the group (our definition): 0 where it does nothing for the model, 1 where without it the
reconstruction is worth no more than the mean; below 0 where the model is better off without. Routing
is live: what a group does to the experts behind it counts too. A group is deleted in its own
sources alone, so a panel of 4 + 4 costs at most 4 passes for each of 70 halves, and 16 for the
group of all sources and those of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from moediff.analysis.panel import EITHER, Groups, judge, own_groups, panel_rows, text_intervals
from moediff.analysis.splicing import ALL, CLEAN, LIVE, MEAN, SPLICED, Losses, without
from moediff.core.bootstrap import Units

LOSS = "loss"  # the statistic, beside `share` (of variance) and `features`


def own_deletions(groups: Groups, kinds: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of what is each kind's own, as far as it has features: `by_group` of `splicing.splice`."""
    return [_name(number) for number in _own(groups, kinds) if groups.count(number)]


def _own(groups: Groups, kinds: Mapping[str, Sequence[str]]) -> list[int]:
    first, second = map(len, kinds.values())
    return own_groups(groups, first, first + second)


def deletions(groups: Groups) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """`deleted` and `within` of `splicing.splice`: every group that has features, in its own sources."""
    some = [number for number in range(len(groups.sets)) if groups.count(number)]
    deleted = {_name(number): groups.group_of == number for number in some}
    return deleted, {_name(number): groups.sets[number] for number in some}


def _name(group: int) -> str:
    return f"group {group}"


def source_losses(losses: pl.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """One row a source: its cross-entropies, tokens, and the share of the loss that is recovered.

    `losses` as `splicing.splice` gives them, of the sources `names` in order.
    """
    kinds = (CLEAN, SPLICED, MEAN)
    return [
        {"source": name, **{kind: _one(losses, name, kind)["cross_entropy"] for kind in kinds}}
        | {key: _one(losses, name, SPLICED)[key] for key in ("recovered_mean", "tokens")}
        for name in names
    ]


def loss_rows(losses: pl.DataFrame, groups: Groups, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of `panel.panel_rows` with shares of the loss: their mean, and `shares` source by source.

    `losses` as `splicing.splice` gives them with what `deletions` says. 0 of a group without features;
    None where the reconstruction recovers nothing of a source's loss, so that there is nothing to share.
    """
    shares = np.zeros((len(groups.sets), len(names)))
    whole = source_losses(losses, names)
    for number, members in enumerate(groups.sets):
        for s in members if groups.count(number) else ():
            recovered = whole[s][MEAN] - whole[s][SPLICED]
            found = _one(losses, names[s], without(_name(number)))["cross_entropy"]
            lost = found - whole[s][SPLICED]
            shares[number, s] = lost / recovered if recovered > 0 else math.nan
    return [
        row
        | {"share": _known(row["share"])}
        | {"shares": {names[s]: _known(float(shares[number, s])) for s in groups.sets[number]}}
        for number, row in enumerate(panel_rows(groups, shares, names))
    ]


def _one(losses: pl.DataFrame, source: str, kind: str) -> dict[str, Any]:
    return losses.row(
        by_predicate=(pl.col("source") == source)
        & (pl.col("kind") == kind)
        & (pl.col("domain") == ALL)
        & (pl.col("routing") == LIVE),
        named=True,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def text_units(losses: Losses) -> Units:
    """The groups of documents that the models were run over."""
    found = _text(losses)
    return Units(found["group"], found["domain"])


def _text(losses: Losses) -> pl.DataFrame:
    return losses.by_group.select("domain", "group").unique().sort("domain", "group")


def loss_intervals(
    losses: Losses, groups: Groups, kinds: Mapping[str, Sequence[str]]
) -> dict[str, list[float] | None]:
    """Intervals of `panel.text_intervals` for shares of the loss.

    What is recovered of each source's loss is taken as it is: in single texts it has any sign. Where
    nothing is recovered there is no share, and no interval either.
    """
    names = [name for side in kinds.values() for name in side]
    whole = source_losses(losses.table, names)
    rows = losses.by_group.filter(pl.col("routing") == LIVE)
    every = _text(losses).with_row_index("place")
    rows = rows.join(every, ["domain", "group"]).sort("place")
    lost = np.zeros((2, len(every), len(names)))
    held = np.zeros((len(every), len(names)))
    for s, name in enumerate(names):
        recovered = (whole[s][MEAN] - whole[s][SPLICED]) * whole[s]["tokens"]
        if recovered <= 0:
            return dict.fromkeys((*kinds, EITHER))
        mine = rows.filter(pl.col("source") == name)
        spliced = mine.filter(pl.col("kind") == SPLICED)
        place = spliced["place"].to_numpy()
        held[place, s] = spliced["tokens"] / whole[s]["tokens"]
        for kind, number in enumerate(_own(groups, kinds)):
            if s in groups.sets[number] and groups.count(number):
                found = mine.filter(pl.col("kind") == without(_name(number)))
                lost[kind, place, s] = (found["added"] - spliced["added"]) / recovered
    return text_intervals(lost, held, text_units(losses), kinds)


def judge_loss(
    rows: Sequence[Mapping[str, Any]],
    kinds: Mapping[str, Sequence[str]],
    intervals: Mapping[str, list[float] | None] | None = None,
) -> list[dict[str, Any]]:
    """The statistic LOSS of each kind and of both, against every other labelling, as `panel.judge`.

    Nothing where some share is None: its labelling could not be compared.
    """
    if any(row["share"] is None for row in rows):
        return []
    judged = judge(rows, kinds, intervals)
    return [row | {"statistic": LOSS} for row in judged if row["statistic"] == "share"]
