"""Experts and features, causally: which expert wrote a feature, and what is lost without it.

Experts add their outputs up: out of a MoE layer comes sum over e of g_e E_e(x), and what a shared
expert adds. A pre-activation is linear in that, so at the hook `mlp_out` it splits exactly into what
each expert wrote. At any hook behind the layer, an expert's gate can be set to 0 (others unchanged)
to see which firings are lost, against those lost with another expert of the same token.

    F  features      k  experts that a row uses      d  width of the source
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moediff.affinity import NONE
from moediff.dictionary import Dictionary
from moediff.errors import UserError
from moediff.families import find_router
from moediff.hooks import Capture, Point, blocks
from moediff.models import packed_inputs
from moediff.portable import Tables
from moediff.progress import Progress
from moediff.sparse import Entries, backend
from moediff.store import AlignedRows, Chunk
from moediff.tokens import TokenShard, segment_starts

SAME = 0.1  # relative distance of rows run again from those stored: another machine, float16
ADDS_UP = 0.02  # relative: experts may run in bfloat16


# --- running the model again --------------------------------------------------------------------


@dataclass(frozen=True)
class Rerun:
    """The model of a source, and the text on which it is run again."""

    model: PreTrainedModel
    tokens: TokenShard  # one of those whose activations are stored
    across_documents: bool
    sequences: int  # so many, from its first
    batch: int  # sequences a pass


class _Pass(NamedTuple):
    """Some sequences, and their rows as they are stored."""

    inputs: dict[str, Any]
    place: Tensor  # [row], where a row lies in the flattened sequences
    sources: list[Tensor]  # [row, d_s] each


def _passes(data: AlignedRows, source: int, again: Rerun, name: str) -> Iterator[_Pass]:
    """The passes of a rerun. Holds the stored rows of all its sequences."""
    tokens = again.tokens
    digests = [shard.facts.get("token_shard") for shard in data.sources[source]]
    if tokens.digest not in digests:
        raise UserError(f"source {source}: none of its shards was made from these tokens")
    number = digests.index(tokens.digest)
    count = min(again.sequences, len(tokens.tokens))

    def inside(chunk: Chunk) -> np.ndarray:
        sequences = data.column_of(chunk, "sequence", source)
        return (sequences < tokens.first + count) & (chunk.shard == number)

    keep = data.select(inside)
    parts = list(data.selected(keep, 4096))
    if not parts:
        raise UserError(f"no row is stored of the first {count} sequences of these tokens")
    sources = [torch.cat(part) for part in zip(*parts, strict=True)]
    where = {
        column: np.concatenate(
            [data.column_of(c, column, source)[keep.of(c.number)] for c in data.chunks]
        ).astype(np.int64)
        for column in ("sequence", "position")
    }
    starts = segment_starts(tokens.document, again.across_documents)
    sequence = where["sequence"] - tokens.first
    progress = Progress(count, name, "sequences")
    for first in range(0, count, again.batch):
        part = slice(first, min(first + again.batch, count))
        mine = np.flatnonzero((sequence >= part.start) & (sequence < part.stop))
        place = (sequence[mine] - first) * tokens.tokens.shape[1] + where["position"][mine]
        rows = torch.from_numpy(mine)
        if len(mine):
            yield _Pass(
                packed_inputs(again.model, tokens.tokens[part], starts[part]),
                torch.from_numpy(place),
                [values[rows] for values in sources],
            )
        progress.advance(part.stop - part.start)
    progress.close()


class _Runner:
    """Runs a pass and gives the source's rows anew, and the routing of one layer."""

    def __init__(self, capture: Capture, point: Point, layer: int, device: torch.device) -> None:
        self.capture, self.point, self.layer, self.device = capture, point, layer, device

    def rows(self, run: _Pass) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [row, d], and experts and gates [position, k] of all positions, as one sequence."""
        found = self.capture(**run.inputs)
        values = found.points[self.point].flatten(0, 1)
        rows = values[run.place.to(values.device)].to(self.device).double()
        routing = found.routing[self.layer]
        return rows, routing.experts.flatten(0, 1).cpu(), routing.gates.flatten(0, 1).cpu()

    def masked(self, run: _Pass, off: Tensor) -> Tensor:
        """Rows [row, d] with the gates at `off` [position, k] set to 0."""
        with masked_gates(self.capture.model, self.layer, off):
            return self.rows(run)[0]


@contextmanager
def masked_gates(model: PreTrainedModel, layer: int, off: Tensor) -> Iterator[None]:
    """While it lasts, the gates of a MoE layer are 0 at `off` [position, k], all others unchanged.

    Positions are those of the whole batch, flattened; slots stand as the router gives them. Raises
    UserError where the layer is dense, or its router does not return the gates of the experts that
    it chose (as Llama 4's, which scale what goes in).
    """
    router = find_router(model, blocks(model)[layer])
    if router is None:
        raise UserError(f"{type(model).__name__}: layer {layer} has no experts")

    def mask(_: Any, __: tuple, out: Any) -> tuple:
        given = out if isinstance(out, tuple) and len(out) == 3 else (None, None, None)
        logits, gates, experts = given
        if gates is None or gates.shape != experts.shape or gates.numel() != off.numel():
            raise UserError(
                f"{type(model).__name__}: the router of layer {layer} does not return gates of the "
                "experts that it chose, so none can be masked"
            )
        return logits, gates.masked_fill(off.to(gates.device).view(gates.shape), 0.0), experts

    handle = router.register_forward_hook(mask)
    try:
        yield
    finally:
        handle.remove()


def _refuse_another_model(rows: Tensor, stored: Tensor, source: int) -> None:
    stored = stored.to(rows)
    if float((rows - stored).norm()) > SAME * float(stored.norm()):
        raise UserError(
            f"source {source}: the model run again does not give the rows that are stored; take the "
            "model, and the setting of attention across documents, that they were made with"
        )


# --- what each expert wrote ---------------------------------------------------------------------


@torch.no_grad()
def written(
    dictionary: Dictionary, data: AlignedRows, source: int, again: Rerun, device: torch.device
) -> pl.DataFrame:
    """One row a feature: the share of its pre-activation that each expert of a layer wrote.

    For a source at `mlp_out` of a MoE layer. With enc a feature's encoder there,

        pre = sum over e of enc . g_e E_e(x) / scale  +  the rest,

    summed over the rows on which the feature fires and divided by the sum of pre (our definition).
    Columns: `feature`, `fired` (rows), `pre_activation` (its mean there), `expert_0` and so on, and the
    rest apart: `shared` (what the layer adds with all gates 0, as a shared expert), `others` (the
    dictionary's other sources) and `constant` (mean and bias). They sum to 1; single ones may be below
    0. Null where it never fires. k + 2 passes of the model up to the layer. Raises UserError where the
    hook is another, or what the experts add does not sum to what the layer gives.
    """
    point = Point.named(data.origins[source]["hook"])
    if point.hook != "mlp_out":
        raise UserError(f"{point}: what experts write adds up at mlp_out only")
    dictionary = dictionary.double().to(device)
    columns, scale = dictionary.shape.columns(source), dictionary.scale[source]
    tables = Tables.of(dictionary)
    encoder = tables.encoder[:, columns].contiguous()  # [F, d]
    fixed = tables.encoder_bias - encoder @ dictionary.mean[columns] / scale  # [F]
    sums: dict[str, Tensor] = {}

    def add(name: str, features: Tensor, values: Tensor) -> None:
        total = sums.setdefault(name, torch.zeros(len(fixed), dtype=torch.float64, device=device))
        total.index_add_(0, features, values)

    with Capture(again.model, [point], routing=True) as capture:
        if point.layer not in capture.routed:
            raise UserError(f"{type(again.model).__name__}: layer {point.layer} has no experts")
        runner = _Runner(capture, point, point.layer, device)
        for run in _passes(data, source, again, "what experts wrote"):
            whole, experts, _ = runner.rows(run)
            _refuse_another_model(whole, run.sources[source], source)
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
            wrote = _dots(shared, encoder, entries) / scale
            add("shared", feature, wrote)
            mine = experts[run.place].to(device)  # [row, k]
            for slot, part in enumerate(parts):
                dots = _dots(part, encoder, entries) / scale
                for expert in mine[:, slot].unique().tolist():
                    chosen = mine[row, slot] == expert
                    add(f"expert_{expert}", feature[chosen], dots[chosen])
            joint[:, columns] = 0
            add("others", feature, _dots(joint, tables.encoder, entries))
    return _shares(sums, len(fixed))


def _by_slot(runner: _Runner, run: _Pass, shape: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Rows [row, d] with all gates 0, and what the expert in each of the k slots adds to them."""
    off = torch.ones(tuple(shape), dtype=torch.bool)
    shared = runner.masked(run, off)
    parts = []
    for slot in range(shape[1]):
        others = off.clone()
        others[:, slot] = False
        parts.append(runner.masked(run, others) - shared)
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


# --- what is lost without an expert -------------------------------------------------------------


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
    dictionary = dictionary.double().to(device)
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
        runner = _Runner(capture, point, layer, device)
        for run in _passes(data, source, again, "masked experts"):
            rows, chosen, gates = runner.rows(run)
            _refuse_another_model(rows, run.sources[source], source)
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
                    left = _fired(dictionary, run, source, runner.masked(run, off))
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


def _fired(dictionary: Dictionary, run: _Pass, source: int, rows: Tensor) -> Entries:
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
