"""Which firings are lost without an expert."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from torch import Tensor

from moediff.activations.rows import AlignedRows
from moediff.analysis.reruns import (
    Rerun,
    Runner,
    StoredPass,
    refuse_another_model,
    stored_passes,
)
from moediff.core.errors import UserError
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.entries import Entries
from moediff.experts.affinity import NONE
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point


@torch.no_grad()
def masked_firing(
    dictionary: Dictionary,
    data: AlignedRows,
    source: int,
    again: Rerun,
    layer: int,
    experts: np.ndarray,
    device: torch.device,
    seed: int = 0,
) -> pl.DataFrame:
    """One row a feature that has an expert: the share of its firings lost when that one is masked.

    `experts` [F] is each feature's expert in `layer`, -1 where it has none. Counted are the rows on
    which the feature fires and that used the expert. Masked is its gate, at every position that used
    it, in one pass; the control masks at the same positions another used expert, drawn at random for
    each, in another (our definition). Columns: `feature`, `expert`, `fired` (such rows), `lost` and
    `lost_other` (shares of them on which it fires no more), `gate` and `gate_other` (the mean gate
    that was masked there: an expert that is chosen first weighs more, whatever it writes). Null where
    there is no such row. Two passes an expert. Raises UserError where the layer has no experts or lies
    behind the hook, or a token uses but one.
    """
    point = Point.named(data.origins[source]["hook"])
    dictionary = in_float64(dictionary, device)
    size = dictionary.shape.features
    wanted = torch.from_numpy(np.array(experts, np.int64)).to(device)  # [F]
    if len(wanted) != size:
        raise UserError(f"experts of {len(wanted)} features, where there are {size}")
    names = ("fired", "lost", "lost_other", "gate", "gate_other")
    sums = {name: torch.zeros(size, dtype=torch.float64, device=device) for name in names}
    random = torch.Generator().manual_seed(seed)
    with Capture(again.model, [point], routing=True) as capture:
        if layer not in capture.routed:
            raise UserError(
                f"{type(again.model).__name__}: layer {layer} has no experts below {point}"
            )
        runner = Runner(capture, point, layer, device)
        for run in stored_passes(data, source, again, "masked experts"):
            rows, chosen, gates = runner.rows(run)
            refuse_another_model(rows, run.sources[source], source)
            if chosen.shape[1] < 2:
                raise UserError("a token uses one expert only: no other can be masked instead")
            row, feature = _fired(dictionary, run, source, rows)
            for expert in wanted[feature].unique().tolist():
                own = chosen == expert  # [position, k]
                uses = own.any(1)[run.place].to(device)  # [row]
                here = (wanted[feature] == expert) & uses[row]
                if expert == NONE or not here.any():
                    continue
                mine = row[here], feature[here]
                sums["fired"].index_add_(0, mine[1], torch.ones_like(mine[1], dtype=torch.float64))
                for end, off in (("", own), ("_other", _another(own, random))):
                    left = _fired(dictionary, run, source, runner.silenced(run, off))
                    gone = ~torch.isin(mine[0] * size + mine[1], left[0] * size + left[1])
                    gate = (gates.double() * off).sum(1)[run.place].to(device)  # [row]
                    sums["lost" + end].index_add_(0, mine[1], gone.double())
                    sums["gate" + end].index_add_(0, mine[1], gate[mine[0]])
    found = {name: total.cpu().numpy() for name, total in sums.items()}
    with np.errstate(invalid="ignore"):
        shares = {name: found[name] / found["fired"] for name in names[1:]}
    columns = {
        "feature": np.arange(size),
        "expert": wanted.cpu().numpy(),
        "fired": found["fired"].astype(np.int64),
        **shares,
    }
    table = pl.DataFrame(columns).filter(pl.col("expert") >= 0)
    return table.with_columns(pl.selectors.float().fill_nan(None))


def _fired(dictionary: Dictionary, run: StoredPass, source: int, rows: Tensor) -> Entries:
    """What fires on the rows of a pass, with `rows` [row, d] in the place of one source's."""
    given = [part.to(rows.device) for part in run.sources]
    given[source] = rows
    return dictionary.encode(dictionary.standardise(given))[0]


def _another(own: Tensor, random: torch.Generator) -> Tensor:
    """Of each position with a slot of its own [position, k], one other slot at random."""
    draw = torch.rand(own.shape, generator=random).masked_fill(own, -1.0)
    other = torch.zeros_like(own)
    other[torch.arange(len(own)), draw.argmax(1)] = own.any(1)
    return other
