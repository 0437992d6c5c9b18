"""From a model and a token shard to an activation shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from moediff.activations import kept_rows, scale_exponent, write_shard
from moediff.errors import UserError
from moediff.hooks import Capture
from moediff.models import model_inputs
from moediff.progress import Progress
from moediff.tokens import TokenShard, segment_starts

CALIBRATION_SEQUENCES = 32


def captured_rows(
    model: PreTrainedModel,
    hook: str,
    layer: int,
    shard: TokenShard,
    keep: np.ndarray,
    across_documents: bool,
    batch: int,
    name: str = "activations",
) -> Iterator[np.ndarray]:
    """Activations of the tokens where `keep` [sequence, position], float32 [row, d_model] a batch."""
    starts = segment_starts(shard.document, across_documents)
    progress = Progress(shard.tokens[: len(keep)].size, name, "tokens")
    with Capture(model, hook, layer) as capture:
        for first in range(0, len(keep), batch):
            part = slice(first, min(first + batch, len(keep)))
            inputs = model_inputs(shard.tokens[part], starts[part], model.device)
            rows = capture(**inputs).float().cpu().numpy()
            yield rows[keep[part]]
            progress.advance(shard.tokens[part].size)
    progress.close()


def calibrate(
    model: PreTrainedModel,
    hook: str,
    layer: int,
    shard: TokenShard,
    special: Sequence[int],
    drop: Mapping[str, bool],
    across_documents: bool,
    dtype: str,
) -> dict[str, Any]:
    """Root mean square of a hook point over the first sequences of a shard, and its exponent."""
    _, keep, _ = kept_rows(shard, special, drop, across_documents)
    keep = keep[:CALIBRATION_SEQUENCES]
    blocks = list(captured_rows(model, hook, layer, shard, keep, across_documents, batch=8))
    rows = np.concatenate(blocks).astype(np.float64)
    if not len(rows) or not np.isfinite(rows).all():
        raise UserError(
            f"{hook} of layer {layer}: {'no row is kept' if not len(rows) else 'not finite'} in the "
            f"first {len(keep)} sequences"
        )
    rms = float(np.sqrt((rows**2).mean()))
    return {"rms": rms, "exponent": scale_exponent(rms, dtype), "d_model": rows.shape[1]}


def cache(
    model: PreTrainedModel,
    hook: str,
    layer: int,
    shard: TokenShard,
    special: Sequence[int],
    drop: Mapping[str, bool],
    across_documents: bool,
    dtype: str,
    exponent: int,
    batch: int,
    chunk_rows: int,
    path: Path | str,
    made_by: Mapping[str, Any],
    name: str = "activations",
) -> int:
    """Write the activation shard of one model on one token shard; its number of rows."""
    columns, keep, left_out = kept_rows(shard, special, drop, across_documents)
    facts = {
        **made_by,
        "hook": f"{hook}.{layer}",
        "domains": list(shard.domains),
        "left_out": left_out,
        "token_shard": shard.digest,
        "drop": dict(drop),
    }
    rows = captured_rows(model, hook, layer, shard, keep, across_documents, batch, name)
    width = model.config.get_text_config().hidden_size
    write_shard(path, rows, columns, width, dtype, exponent, chunk_rows, facts)
    return len(columns["token"])
