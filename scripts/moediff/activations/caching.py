"""A model's activations on a token shard, calibrated and stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moediff.activations.kept_rows import Kept
from moediff.activations.massive import merged, standing_out
from moediff.activations.moments import Moments
from moediff.activations.shard_writer import ShardWriter
from moediff.activations.shards import Stored, scale_exponent
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.core.progress import Progress
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard
from moediff.hooks.capture import Capture, Routing
from moediff.hooks.points import Point
from moediff.hooks.proofs import prove, prove_packing
from moediff.models.inputs import packed_inputs

CALIBRATION_SEQUENCES = 32
PROOF_SEQUENCES = 2


# Name in a config -> whether experts and gates are kept, and whether the router's probabilities are as well.
ROUTINGS = {"none": (False, False), "used": (True, False), "probabilities": (True, True)}


@dataclass(frozen=True)
class Reading:
    """What is read of a model in one pass."""

    points: Mapping[str, Point]  # by name
    routing: str  # name in ROUTINGS

    def capture(self, model: PreTrainedModel) -> Capture:
        return Capture(model, list(self.points.values()), *ROUTINGS[self.routing])


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


def calibrate(
    model: PreTrainedModel,
    reading: Reading,
    shard: TokenShard,
    kept: Kept,
    across_documents: bool,
    dtype: str,
    massive_norm: float | None = None,
) -> dict[str, dict[str, Any]]:
    """What every point stands for and how it is stored, from the first sequences of a shard.

    Of each: hook and layer, d_model, root mean square, exponent and median norm of the rows; and where
    rows stand out that `massive_norm` leaves in, `standing_out`, as `massive.merged` gives it. Raises
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
        median_norm = float(rows.norm(dim=1).median())
        found[name] = {
            "hook": point.hook,
            "layer": point.layer,
            "d_model": rows.shape[1],
            "rms": rms,
            "exponent": scale_exponent(rms, dtype),
            "median_norm": median_norm,
        }
        if standing_out := _standing_out(rows, kept, median_norm, massive_norm):
            found[name]["standing_out"] = standing_out
    return found


def _standing_out(
    rows: Tensor, kept: Kept, median_norm: float, massive_norm: float | None
) -> dict[str, Any] | None:
    """Of the first rows [row, d_model] those that stand out and are not left out."""
    most = torch.inf if massive_norm is None else massive_norm * median_norm
    left_out = rows.norm(dim=1) > most
    sums = Moments(rows.shape[1])
    sums.add(rows[~left_out])
    found = standing_out(rows.numpy(), sums, left_out.numpy(), kept.columns, 0)
    return found and merged([found], float(sums.spread.sum()))


def read_points(path: Path | str, model: str) -> dict[str, dict[str, Any]]:
    """What `calibrate` found of the model of this digest. Raises UserError where the file is of another."""
    found = artifact.read_json(path)
    if found["model"] != model:
        raise UserError(
            f"{path}: measured on another model than these weights are of; run rm '{path}' and then the same "
            "snakemake command again"
        )
    points: dict[str, dict[str, Any]] = found["points"]
    return points


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
