"""What changes of a running MoE cost the text that it reads.

The cost of a change is the difference of cross-entropies in nats to the model as it is, and `ratio` that of
perplexities, exp(cost). Text counts by token, and by document, which gives a short one as much as a long one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from transformers import PreTrainedModel

from moediff.analysis.reruns import Pass
from moediff.core.bootstrap import Units, group_interval
from moediff.core.errors import UserError
from moediff.core.terms import ALL
from moediff.hooks.points import Point
from moediff.hooks.resuming import Beginning


class Setting(NamedTuple):
    """A change of a model."""

    facts: Mapping[str, Any]  # what it is called: columns of the table
    inside: Callable[[PreTrainedModel], AbstractContextManager[None]]  # in which passes are changed
    layer: int | None = None  # the first that it changes, where those before it need not run again
    same: Hashable = None  # equal in settings that change the model alike: one is run for all


def costs(
    runs: Iterable[Pass],
    settings: Callable[[PreTrainedModel], Sequence[Setting]],
    plain: Mapping[str, Any],
    domains: Sequence[str],
) -> pl.DataFrame:
    """One row for each setting and domain, and all text; first the model as it is, called by `plain`.

    `runs` are passes of one model, of which `settings` gives the changes. Columns: those of the facts,
    `domain`, `tokens`, `documents`; `cross_entropy` in nats a token; `cost`, its difference to the model as
    it is, with `cost_low` and `cost_high` (groups of documents drawn anew; null where they are too few) and
    `ratio`; `cross_entropy_by_document`, `cost_by_document`, `ratio_by_document`: means over documents of
    their means. One pass for each different setting; those that name a layer begin at it. Raises UserError
    where there is no text.
    """
    wanted: Sequence[Setting] | None = None
    begun: dict[int, Beginning] = {}
    nats, of = [], []
    for run in runs:
        wanted = settings(run.model) if wanted is None else wanted
        nats.append(np.stack([*_losses(run, wanted, begun)]))
        columns = (run.tokens.domain, run.tokens.group, run.tokens.document)
        of.append([column[run.part][:, 1:][run.target] for column in columns])
    if wanted is None:
        raise UserError("there is no text to run the model on")
    domain, group, document = (np.concatenate(column) for column in zip(*of, strict=True))
    losses = np.concatenate(nats, 1)  # [setting, target], the first of the model as it is
    parts = [(ALL, np.ones(len(domain), bool))]
    parts += [(domains[number], domain == number) for number in np.unique(domain).tolist()]
    rows = []
    for name, here in parts:
        units = Units(group[here], domain[here])
        own = document[here]
        for facts, changed in zip([plain, *(s.facts for s in wanted)], losses, strict=True):
            rows.append(
                {**facts, "domain": name} | cost(losses[0, here], changed[here], units, own)
            )
    bounds = dict.fromkeys(("cost_low", "cost_high"), pl.Float64)
    return pl.DataFrame(rows, schema_overrides=bounds, infer_schema_length=None)


def _losses(
    run: Pass, wanted: Sequence[Setting], begun: dict[int, Beginning]
) -> Iterator[np.ndarray]:
    """Losses [target] of the model as it is, and in each setting."""
    layers = sorted({setting.layer for setting in wanted if setting.layer is not None})
    for layer in layers:
        if layer not in begun:
            begun[layer] = Beginning(run.model, Point("resid_pre", layer))
            begun[layer].prove(run.inputs)
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(begun[layer].kept())
        yield run.losses()
    known: dict[Hashable, np.ndarray] = {}
    for setting in wanted:
        if setting.same is not None and setting.same in known:
            yield known[setting.same]
            continue
        with ExitStack() as stack:
            if setting.layer is not None:
                stack.enter_context(begun[setting.layer].skipped())
            stack.enter_context(setting.inside(run.model))
            losses = known[setting.same] = run.losses()
        yield losses
        run.says(" ".join(str(fact) for fact in setting.facts.values() if fact is not None))


def cost(
    plain: np.ndarray, changed: np.ndarray, units: Units, document: np.ndarray
) -> dict[str, Any]:
    """What a change costs, from losses [target] without it and with it; the columns of `costs`."""
    more = changed - plain
    low, high = group_interval(more, np.ones(len(more)), units) or (None, None)
    _, of, sizes = np.unique(document, return_inverse=True, return_counts=True)
    by_document, more_by_document = (
        float((np.bincount(of, values) / sizes).mean()) for values in (changed, more)
    )
    found = float(more.mean())
    return {
        "tokens": len(more),
        "documents": len(sizes),
        "cross_entropy": float(changed.mean()),
        "cost": found,
        "cost_low": low,
        "cost_high": high,
        "ratio": float(np.exp(found)),
        "cross_entropy_by_document": by_document,
        "cost_by_document": more_by_document,
        "ratio_by_document": float(np.exp(more_by_document)),
    }
