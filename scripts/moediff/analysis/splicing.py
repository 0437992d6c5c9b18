"""Language-model loss with a dictionary's reconstruction in place of activations, and loss recovered.

A model runs as it is (clean), and again with its activations at one hook point replaced: by zeros, by
the mean over fit rows, by the reconstruction (spliced), or by one without some features. Only the
rows that a dictionary is for are replaced; sequence starts and the like keep their own.

    recovered = (ablated - spliced) / (ablated - clean)

with the cross-entropy of zero or of mean ablation as `ablated`, as the field has it: 1 is a perfect
reconstruction, 0 one that is no better than the ablation.

Behind the hook point an MoE may send a token to other experts than it did. So there are two losses
where a router is behind it: routing live, as the replaced stream has it, and frozen, with the experts
and gates of the clean pass (our definition). Every loss that is compared, of the ablations too, then
has the same routing.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from moediff.analysis.reruns import Pass, Text, passes, warn_of_few
from moediff.analysis.sides import Side
from moediff.core.bootstrap import Units, group_interval
from moediff.core.errors import UserError
from moediff.core.terms import ALL
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.hooks.capture import Capture
from moediff.hooks.interventions import Edit, ablate, intervene, replace
from moediff.hooks.proofs import prove
from moediff.hooks.resuming import Beginning
from moediff.hooks.routing import freezing, recording
from moediff.models.families import Routed
from moediff.models.placement import input_device

log = logging.getLogger("moediff")
LIVE, FROZEN = "live", "frozen"
CLEAN, ZERO, MEAN, SPLICED = "clean", "zero", "mean", "spliced"
COLUMNS = {
    "source": pl.String,
    "domain": pl.String,
    "routing": pl.String,
    "kind": pl.String,
    "cross_entropy": pl.Float64,
    "recovered_zero": pl.Float64,
    "recovered_mean": pl.Float64,
    "added": pl.Float64,
    "added_low": pl.Float64,
    "added_high": pl.Float64,
    "tokens": pl.Int64,
    "text_groups": pl.Int64,  # that the tokens are of, and that are resampled
}
GROUPS = {
    "source": pl.String,
    "routing": pl.String,
    "kind": pl.String,
    "domain": pl.String,
    "group": pl.Int64,
    "tokens": pl.Int64,
    "added": pl.Float64,  # summed over its tokens
}
PROOF_SEQUENCES = 2  # on which the points of every side are proved


class Losses(NamedTuple):
    """What splicing finds: nats a token, and what is added to the loss of each group of documents."""

    table: pl.DataFrame  # COLUMNS
    by_group: pl.DataFrame  # GROUPS, of the whole reconstruction and of what was asked for


class _Sums:
    """Losses of one side by routing and kind, and how many of each; arrays are [domain], float64."""

    def __init__(self, domains: tuple[str, ...]) -> None:
        self.domains = domains
        self.loss: dict[tuple[str, str], np.ndarray] = {}
        self.count = np.zeros(len(domains))
        # Of each routing and kind, batch by batch: tokens and added loss of each group of a domain.
        self.added: dict[tuple[str, str], list[pl.DataFrame]] = {}

    def add(self, routing: str, kind: str, domain: np.ndarray, values: np.ndarray) -> None:
        """Add losses [target], of the domains [target]."""
        more = np.bincount(domain, values, len(self.domains))
        self.loss[routing, kind] = self.loss.get((routing, kind), 0.0) + more

    def add_groups(self, routing: str, kind: str, units: Units, more: np.ndarray) -> None:
        """Keep what a kind adds to the loss [target], by group of documents."""
        names = ["domain", "group"]
        columns = {"domain": units.domain, "group": units.group, "added": more}
        found = pl.DataFrame(columns, schema_overrides=dict.fromkeys(names, pl.Int64))
        sums = found.group_by(names).agg(pl.len().cast(pl.Int64).alias("tokens"), pl.sum("added"))
        self.added.setdefault((routing, kind), []).append(sums)

    def of_groups(self, routing: str, kind: str) -> pl.DataFrame:
        """Domain, group, tokens and added loss, a row each: one that two batches cut has one row."""
        names = ["domain", "group"]
        found = pl.concat(self.added[routing, kind]).group_by(names)
        return found.agg(pl.sum("tokens", "added")).sort(names)

    def _resampled(self, routing: str, part: slice) -> dict[str, Any]:
        """Interval of the loss that the reconstruction adds a token, and how many groups are resampled."""
        found = self.of_groups(routing, SPLICED)
        inside = np.isin(found["domain"].to_numpy(), np.arange(len(self.domains))[part])
        found = found.filter(inside)
        units = Units(found["group"], found["domain"])
        low, high = group_interval(found["added"], found["tokens"], units) or (None, None)
        return {"added_low": low, "added_high": high, "text_groups": len(found)}

    def warn_of_few(self, source: str) -> None:
        """Name the domains of which too few groups of documents were read to be resampled."""
        found = self.of_groups(*next(iter(self.added)))
        warn_of_few(f"splicing: {source}", Units(found["group"], found["domain"]), self.domains)

    def by_group(self, source: str) -> pl.DataFrame:
        """GROUPS: one row a routing, kind and group of documents."""
        named = pl.col("domain").replace_strict(
            dict(enumerate(self.domains)), return_dtype=pl.String
        )
        parts = [
            self.of_groups(routing, kind).select(
                pl.lit(source).alias("source"), pl.lit(routing).alias("routing"),
                pl.lit(kind).alias("kind"), named, "group", "tokens", "added",
            )
            for routing, kind in self.added
        ]  # fmt: skip
        return pl.concat(parts).cast(GROUPS)

    def rows(self, source: str) -> list[dict[str, Any]]:
        """One row a domain, routing and kind."""
        every = {ALL: slice(None)} | {name: slice(i, i + 1) for i, name in enumerate(self.domains)}
        seen = {name: part for name, part in every.items() if self.count[part].sum()}
        found = []
        for (routing, kind), loss in self.loss.items():
            for name, part in seen.items():
                count = self.count[part].sum()
                mean = {k: self.loss[routing, k][part].sum() / count for k in (CLEAN, ZERO, MEAN)}
                value = loss[part].sum() / count
                nothing = {"added_low": None, "added_high": None, "text_groups": None}
                resampled = self._resampled(routing, part) if kind == SPLICED else nothing
                found.append(
                    {
                        "source": source,
                        "domain": name,
                        "routing": routing,
                        "kind": kind,
                        "cross_entropy": float(value),
                        "recovered_zero": _recovered(value, mean[ZERO], mean[CLEAN]),
                        "recovered_mean": _recovered(value, mean[MEAN], mean[CLEAN]),
                        "added": float(value - mean[CLEAN]),
                        **resampled,
                        "tokens": int(count),
                    }
                )
        return found


def _recovered(value: float, ablated: float, clean: float) -> float | None:
    """Share of the loss recovered; None where the ablation costs nothing."""
    return float((ablated - value) / (ablated - clean)) if ablated != clean else None


@torch.no_grad()
def splice(
    sides: Sequence[Side],
    texts: Iterable[Sequence[Text]],
    dictionary: Dictionary,
    across_documents: bool,
    sequences: int,
    batch: int,
    frozen: bool = True,
    deleted: Mapping[str, np.ndarray] | None = None,
    within: Mapping[str, Collection[int]] | None = None,
    by_group: Collection[str] = (),
    groups: int = 0,
) -> Losses:
    """Losses with the activations of each side replaced in turn.

    `added` is the loss above the clean one; of the whole reconstruction with its interval, groups
    of documents resampled, where there are enough of them.

    `texts` holds for every token shard, side by side, the text as the side's model reads it, with its
    kept rows; the first `sequences` are used, `batch` at a time; where these are of fewer than `groups`
    groups of documents, those of most. The dictionary reads all sides' rows of a token, in float64 and
    by its thresholds, and each model then runs with its own part of the reconstruction alone. `deleted`
    names features [F] of bool that are left out of it, each kind "without {name}"; `within` the numbers
    of the sides that are run without them, where these are not all; `by_group` those of them that are
    also kept group by group. `frozen` also gives the losses with frozen routing, where a router is
    behind the point. Raises UserError where a point, a family or a mask does not fit.
    """
    dictionary = in_float64(dictionary, input_device(sides[0].model))
    gone = _features(dictionary, deleted or {})
    wanted = {without(name): numbers for name, numbers in (within or {}).items()}
    kept = {SPLICED, *map(without, by_group)}
    totals: list[_Sums] = []
    models = [side.model for side in sides]
    begun = [Beginning(side.model, side.point) for side in sides]
    for runs in passes(models, texts, across_documents, sequences, batch, "splicing", groups):
        if not totals:
            totals = [_Sums(run.tokens.domains) for run in runs]
            for side, run, blocks in zip(sides, runs, begun, strict=True):
                first = dataclasses.replace(run, part=slice(0, PROOF_SEQUENCES))
                prove(side.model, [side.point], first.inputs)
                blocks.prove(first.inputs)
        _add_batch(totals, sides, runs, begun, dictionary, gone, wanted, kept, frozen)
    if not totals or not all(sums.count.any() for sums in totals):
        raise UserError("splicing: no token is predicted; use more sequences")
    for side, sums in zip(sides, totals, strict=True):
        sums.warn_of_few(side.name)
    rows = [row for side, sums in zip(sides, totals, strict=True) for row in sums.rows(side.name)]
    each = [sums.by_group(side.name) for side, sums in zip(sides, totals, strict=True)]
    return Losses(pl.DataFrame(rows, schema=COLUMNS), pl.concat(each))


def _features(dictionary: Dictionary, deleted: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Masks [F] of bool on the dictionary's device."""
    for name, mask in deleted.items():
        if mask.dtype != bool or mask.shape != (dictionary.shape.features,):
            raise UserError(
                f"features '{name}': {mask.dtype} {mask.shape}, needs bool ({dictionary.shape.features},)"
            )
    return {n: torch.from_numpy(m).to(dictionary.threshold.device) for n, m in deleted.items()}


def _add_batch(
    totals: Sequence[_Sums],
    sides: Sequence[Side],
    runs: Sequence[Pass],
    begun: Sequence[Beginning],
    dictionary: Dictionary,
    gone: Mapping[str, Tensor],
    wanted: Mapping[str, Collection[int]],
    kept: Collection[str],
    frozen: bool,
) -> None:
    """Count a pass of every side, of each kind those that are `wanted` of it, or all; group by
    group those kinds that are `kept` so. What is `begun` is computed once."""
    rows = [_rows(*of_side) for of_side in zip(sides, runs, begun, strict=True)]
    if len({len(own) for own in rows}) > 1:
        raise UserError(
            "splicing: the sides' masks keep different numbers of rows "
            f"({', '.join(str(len(own)) for own in rows)}); take those of aligned token shards"
        )
    rows, masks = _without_massive(sides, rows, [run.kept for run in runs])
    routings: list[dict[str, Mapping[int, Routed]]] = []
    cleans = []
    for side, run, sums, blocks in zip(sides, runs, totals, begun, strict=True):
        recorded: AbstractContextManager[Mapping[int, Routed]] = (
            recording(side.model, side.point) if frozen else nullcontext({})
        )
        with blocks.skipped(), recorded as routed:
            clean = run.losses()
        routings.append({LIVE: {}} | ({FROZEN: routed} if routed else {}))
        sums.count += np.bincount(run.domain, minlength=len(sums.domains))
        cleans.append(clean)
        for name in routings[-1]:
            sums.add(name, CLEAN, run.domain, clean)
    for kind, edits in _edits(dictionary, rows, gone):
        for s in wanted.get(kind, range(len(sides))):
            side, run = sides[s], runs[s]
            for name, routed in routings[s].items():
                with (
                    begun[s].skipped(),
                    intervene(side.model, side.point, edits[s], masks[s]),
                    freezing(side.model, routed),
                ):
                    losses = run.losses()
                run.says(f"{side.name} {kind}")
                totals[s].add(name, kind, run.domain, losses)
                if kind in kept:
                    more = losses - cleans[s]
                    totals[s].add_groups(name, kind, run.units, more)


def _rows(side: Side, run: Pass, begun: Beginning) -> Tensor:
    """Activations [row, d_model] of a side where its text has rows."""
    with begun.kept(), Capture(side.model, [side.point]) as capture:
        values = capture(**run.inputs).points[side.point]
    return values[run.kept.to(values.device)]


def _without_massive(
    sides: Sequence[Side], rows: Sequence[Tensor], masks: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Rows and masks without those that are massive in any side, which no dictionary was fitted on."""
    usable = torch.ones(len(rows[0]), dtype=torch.bool)
    for side, own in zip(sides, rows, strict=True):
        if side.most is not None:
            usable &= (own.float().norm(dim=1) <= side.most).cpu()
    kept = [own[usable.to(own.device)] for own in rows]
    return kept, [mask.masked_scatter(mask, usable) for mask in masks]


def without(name: str) -> str:
    """The kind of a deletion."""
    return f"without {name}"


def _edits(
    dictionary: Dictionary, rows: Sequence[Tensor], gone: Mapping[str, Tensor]
) -> Iterator[tuple[str, list[Edit]]]:
    """What is done to the sides' rows [row, d_model], kind by kind: one edit a side, in float64.

    One kind is held at a time, since a panel has a hundred.
    """
    yield ZERO, [ablate() for _ in rows]
    standard = dictionary.standardise(rows)  # [row, D]
    yield MEAN, [ablate(mean) for mean in dictionary.mean_rows()]
    (row, feature), values = dictionary.encode(standard)
    whole = dictionary.decode(values, (row, feature), len(standard))  # [row, D]
    yield SPLICED, [replace(own) for own in dictionary.restore(whole, rows)]
    for name, mask in gone.items():
        out = mask[feature]
        less = dictionary.add(whole, -values[out], (row[out], feature[out]))
        yield without(name), [replace(own) for own in dictionary.restore(less, rows)]
