"""From a model and a token shard to an activation shard: which rows, at which points, once through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moediff.alignment import PADDING, aligned, alignment_report
from moediff.errors import UserError
from moediff.hooks import Capture, Point, Routing
from moediff.models import packed_inputs
from moediff.progress import Progress
from moediff.proofs import prove, prove_packing
from moediff.shards import COLUMNS, ShardWriter, Stored, scale_exponent
from moediff.tokens import TokenShard, segment_starts

CALIBRATION_SEQUENCES = 32
PROOF_SEQUENCES = 2


# --- which rows ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """The rows of a token shard that are stored."""

    mask: np.ndarray  # [sequence, position] of bool
    columns: dict[str, np.ndarray]  # COLUMNS, each [row]
    left_out: dict[str, int]  # rows by reason; a row counts for the first that applies
    alignment: dict[str, float] | None  # share kept and its bias, where tokenizers differ


def kept_rows(
    shard: TokenShard,
    drop: Mapping[str, Any],
    across_documents: bool,
    others: Sequence[TokenShard] = (),
) -> Kept:
    """Which rows of a shard to store.

    A sequence start is the first position that attention sees: of the sequence, and, when attention
    does not cross documents, of each document in it. `others` are the same text by other
    tokenizers: only rows are kept that end where a row of each of them does, which would be kept
    there too.
    """
    reasons = _reasons(shard, drop, across_documents)
    mask = ~np.logical_or.reduce(list(reasons.values()))
    alignment = None
    if others:
        allowed = [
            ~np.logical_or.reduce(list(_reasons(other, drop, across_documents).values()))
            for other in others
        ]
        usable = mask
        mask, *_ = aligned([shard, *others], [mask, *allowed])
        alignment = alignment_report(shard, mask, usable)
        reasons["unaligned"] = usable & ~mask
    left_out, counted = {}, np.zeros(mask.shape, bool)
    for name, where in reasons.items():
        left_out[name] = int((where & ~counted).sum())
        counted |= where
    sequence, position = np.nonzero(mask)
    columns = {
        "token": shard.tokens[mask],
        "document": shard.document[mask],
        "sequence": sequence + shard.first,
        "position": position,
        "domain": shard.domain[mask],
        "start": shard.start[mask],
        "end": shard.end[mask],
    }
    return Kept(mask, {name: columns[name] for name in COLUMNS}, left_out, alignment)


def _reasons(
    shard: TokenShard, drop: Mapping[str, Any], across_documents: bool
) -> dict[str, np.ndarray]:
    """Masks [sequence, position] of rows that are left out, by reason."""
    starts = segment_starts(shard.document, across_documents)
    return {
        "padding": shard.document == PADDING,
        "special_tokens": np.isin(shard.tokens, shard.special) & drop["special_tokens"],
        "sequence_start": starts & drop["sequence_start"],
    }


# --- one pass -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What is read of a model in one pass."""

    points: Mapping[str, Point]  # by name
    routing: str  # none, used (experts and gates) or probabilities (those as well)

    def capture(self, model: PreTrainedModel) -> Capture:
        return Capture(
            model,
            list(self.points.values()),
            self.routing != "none",
            self.routing == "probabilities",
        )


def captured(
    model: PreTrainedModel,
    reading: Reading,
    shard: TokenShard,
    mask: np.ndarray,
    across_documents: bool,
    batch: int,
    name: str = "activations",
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Activations [row, d_model] by point and routing [row, ...] by array, of the tokens in `mask`.

    `mask` is [sequence, position]; one pair comes for each batch of `batch` sequences.
    """
    starts = segment_starts(shard.document, across_documents)
    progress = Progress(shard.tokens[: len(mask)].size, name, "tokens")
    with reading.capture(model) as capture:
        for first in range(0, len(mask), batch):
            part = slice(first, min(first + batch, len(mask)))
            found = capture(**packed_inputs(model, shard.tokens[part], starts[part]))
            rows = torch.from_numpy(np.flatnonzero(mask[part]))
            points = {
                name: _rows(found.points[point], rows) for name, point in reading.points.items()
            }
            yield points, _routing(found.routing, rows)
            progress.advance(shard.tokens[part].size)
    progress.close()


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """The wanted rows of values [sequence, position, ...], on the CPU."""
    return values.flatten(0, 1).index_select(0, rows.to(values.device)).cpu()


def _routing(found: Mapping[int, Routing], rows: Tensor) -> dict[str, Tensor]:
    arrays: dict[str, Tensor] = {}
    for layer, routing in found.items():
        experts = _rows(routing.experts, rows)
        arrays[f"experts.{layer}"] = experts.to(torch.int16)
        arrays[f"gates.{layer}"] = _rows(routing.gates, rows).float()
        if routing.probabilities is not None:
            arrays[f"probabilities.{layer}"] = _rows(routing.probabilities, rows).float()
    return arrays


# --- calibration and caching --------------------------------------------------------------------


def calibrate(
    model: PreTrainedModel,
    reading: Reading,
    shard: TokenShard,
    kept: Kept,
    across_documents: bool,
    dtype: str,
) -> dict[str, dict[str, Any]]:
    """What every point stands for and how it is stored, from the first sequences of a shard.

    Of each: hook and layer, d_model, root mean square, exponent and median norm of the rows. Raises
    UserError where the parts of a block do not add up to what leaves it, or attention crosses
    documents.
    """
    mask = kept.mask[:CALIBRATION_SEQUENCES]
    tokens = shard.tokens[: len(mask)]
    starts = segment_starts(shard.document, across_documents)[: len(mask)]
    some = slice(0, PROOF_SEQUENCES)
    prove(model, list(reading.points.values()), packed_inputs(model, tokens[some], starts[some]))
    prove_packing(model, tokens, starts)
    alone = Reading(reading.points, "none")
    batches = [rows for rows, _ in captured(model, alone, shard, mask, across_documents, 8)]
    found = {}
    for name, point in reading.points.items():
        rows = torch.cat([batch[name] for batch in batches]).double()
        if not len(rows) or not torch.isfinite(rows).all():
            raise UserError(
                f"{name}: {'not finite' if len(rows) else 'no row is kept'} in the first "
                f"{len(mask)} sequences"
            )
        rms = float(rows.square().mean().sqrt())
        found[name] = {
            "hook": point.hook,
            "layer": point.layer,
            "d_model": rows.shape[1],
            "rms": rms,
            "exponent": scale_exponent(rms, dtype),
            "median_norm": float(rows.norm(dim=1).median()),
        }
    return found


def stored_points(
    measured: Mapping[str, Mapping[str, Any]], massive_norm: float | None
) -> dict[str, Stored]:
    """How every point that `calibrate` measured is stored."""
    return {
        name: Stored(
            f"{found['hook']}.{found['layer']}",
            found["d_model"],
            found["exponent"],
            None if massive_norm is None else massive_norm * found["median_norm"],
        )
        for name, found in measured.items()
    }


def cache(
    model: PreTrainedModel,
    reading: Reading,
    stored: Mapping[str, Stored],
    shard: TokenShard,
    kept: Kept,
    across_documents: bool,
    dtype: str,
    batch: int,
    chunk_rows: int,
    path: Path | str,
    made_by: Mapping[str, Any],
    name: str = "activations",
) -> int:
    """Write the activation shard of one model on one token shard; its number of rows."""
    writer = ShardWriter(path, kept.columns, stored, dtype, chunk_rows)
    for rows, routing in captured(model, reading, shard, kept.mask, across_documents, batch, name):
        writer.add(rows, routing)
    writer.write(
        {
            **made_by,
            "domains": list(shard.domains),
            "tokens": int(shard.tokens.size),
            "left_out": kept.left_out,
            "alignment": kept.alignment,
            "token_shard": shard.digest,
            "tokenizer": shard.tokenizer,
        }
    )
    return writer.count
