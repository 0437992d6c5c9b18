"""Which expert wrote a feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

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
from moediff.dictionaries.dense import Tables
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.entries import Entries
from moediff.dictionaries.scores import backend
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point

ADDS_UP = 0.02  # relative: experts may run in bfloat16


@torch.no_grad()
def written(
    dictionary: Dictionary, data: AlignedRows, source: int, again: Rerun, device: torch.device
) -> pl.DataFrame:
    """One row a feature: the share of its pre-activation that each expert of a layer wrote.

    For a source at `mlp_out` of a MoE layer. With enc a feature's encoder there,

        pre = sum over e of enc . g_e E_e(x) / scale  +  the rest,

    each summand normalised as the row that it is part of, summed over the rows on which the feature fires
    and divided by the sum of pre (our definition). Columns: `feature`, `fired` (rows),
    `pre_activation` (its mean there), `expert_0` and so on, and the rest apart: `shared` (what the layer adds
    with all gates 0, as a shared expert), `others` (the dictionary's other sources) and `constant` (mean and
    bias). They sum to 1; single ones may be below 0. Null where it never fires. k + 2 passes of the model up
    to the layer. Raises UserError where the hook is another, or what the experts add does not sum to what the
    layer gives.
    """
    point = Point.named(data.origins[source]["hook"])
    if point.hook != "mlp_out":
        raise UserError(f"{point}: what experts write adds up at mlp_out only")
    dictionary = in_float64(dictionary, device)
    columns, scale = dictionary.shape.columns(source), dictionary.scale[source]
    tables = Tables.of(dictionary)
    encoder = tables.encoder[:, columns].contiguous()  # [F, d]
    normaliser, mean = dictionary.normaliser, dictionary.mean[columns]
    fixed = tables.encoder_bias - encoder @ normaliser.origin(source, mean) / scale  # [F]
    sums: dict[str, Tensor] = {}

    def add(name: str, features: Tensor, values: Tensor) -> None:
        total = sums.setdefault(name, torch.zeros(len(fixed), dtype=torch.float64, device=device))
        total.index_add_(0, features, values)

    with Capture(again.model, [point], routing=True) as capture:
        if point.layer not in capture.routed:
            raise UserError(f"{type(again.model).__name__}: layer {point.layer} has no experts")
        runner = Runner(capture, point, point.layer, device)
        for run in stored_passes(data, source, again, "what experts wrote"):
            whole, experts, _ = runner.rows(run)
            refuse_another_model(whole, run.sources[source], source)
            shared, parts = _by_slot(runner, run, experts.shape)
            rows = shared + sum(parts)
            if float((rows - whole).norm()) > ADDS_UP * float(whole.norm()):
                raise UserError(
                    f"{type(again.model).__name__}: what its experts add in layer {point.layer} does "
                    "not sum to what the layer gives, so there are no shares"
                )
            given = [part.to(device) for part in run.sources]
            given[source] = rows
            joint = dictionary.standardise(given)
            (row, feature), values = dictionary.encode(joint)
            entries = (row, feature)
            add("fired", feature, torch.ones_like(values))
            add("pre", feature, values)
            add("constant", feature, fixed[feature])
            shown = partial(normaliser.linear, source=source, of=rows)
            wrote = _dots(shown(shared), encoder, entries) / scale
            add("shared", feature, wrote)
            mine = experts[run.place].to(device)  # [row, k]
            for slot, part in enumerate(parts):
                dots = _dots(shown(part), encoder, entries) / scale
                for expert in mine[:, slot].unique().tolist():
                    chosen = mine[row, slot] == expert
                    add(f"expert_{expert}", feature[chosen], dots[chosen])
            joint[:, columns] = 0
            add("others", feature, _dots(joint, tables.encoder, entries))
    return _shares(sums, len(fixed))


def _by_slot(runner: Runner, run: StoredPass, shape: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Rows [row, d] with all gates 0, and what the expert in each of the k slots adds to them."""
    off = torch.ones(tuple(shape), dtype=torch.bool)
    shared = runner.silenced(run, off)
    parts = []
    for slot in range(shape[1]):
        others = off.clone()
        others[:, slot] = False
        parts.append(runner.silenced(run, others) - shared)
    return shared, parts


def _dots(rows: Tensor, encoder: Tensor, entries: Entries) -> Tensor:
    return backend(rows).row_dots(rows, encoder, entries)


def _shares(sums: Mapping[str, Tensor], features: int) -> pl.DataFrame:
    found = {name: total.cpu().numpy() for name, total in sums.items()}
    fired, total = found.pop("fired"), found.pop("pre")
    last = max(int(name.partition("_")[2]) for name in found if name.startswith("expert_"))
    names = [*(f"expert_{n}" for n in range(last + 1)), "shared", "others", "constant"]
    with np.errstate(invalid="ignore"):
        shares = {name: found.get(name, np.zeros(features)) / total for name in names}
        columns = {
            "feature": np.arange(features),
            "fired": fired.astype(np.int64),
            "pre_activation": total / fired,
        }
    return pl.DataFrame(columns | shares).with_columns(pl.selectors.float().fill_nan(None))
