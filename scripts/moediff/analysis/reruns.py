"""Models run again on stored text: opened, checked, and their losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from moediff.activations import kept_rows
from moediff.activations.chunks import Chunk
from moediff.activations.rows import AlignedRows
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.core.progress import Progress
from moediff.corpus.alignment import PADDING
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard, read_token_shard
from moediff.hooks.capture import Capture
from moediff.hooks.interventions import masked_gates
from moediff.hooks.points import Point
from moediff.models.inputs import packed_inputs
from moediff.models.loading import open_manifest

PROOF_SEQUENCES = 2


class Losses(NamedTuple):
    """What splicing finds: nats a token, and what is added to the loss of each document."""

    table: pl.DataFrame  # COLUMNS
    documents: pl.DataFrame  # DOCUMENTS, of the whole reconstruction and of what was asked for


def targets(shard: TokenShard, across_documents: bool) -> np.ndarray:
    """Positions 1.. that are predicted: [sequence, position - 1] of bool.

    As in training: not the first that attention sees; and no padding.
    """
    starts = segment_starts(shard.document, across_documents)
    return ~starts[:, 1:] & (shard.document[:, 1:] != PADDING)


@torch.no_grad()
def losses(model: PreTrainedModel, inputs: Mapping[str, Any], target: np.ndarray) -> np.ndarray:
    """Cross-entropy in nats of every target, float64 [target]; `target` is [batch, position - 1]."""
    logits = model(**inputs).logits[:, :-1]  # [batch, position - 1, vocabulary]
    chosen = torch.from_numpy(target).to(logits.device)
    tokens = inputs["input_ids"][:, 1:].to(logits.device)[chosen]
    found = F.cross_entropy(logits[chosen].float(), tokens, reduction="none")
    return found.double().cpu().numpy()


@dataclass(frozen=True)
class Side:
    """One source of a dictionary, run anew."""

    name: str
    model: PreTrainedModel
    point: Point
    most: float | None = None  # norm above which a row is massive: it is not replaced


def open_sides(
    facts: Mapping[str, Any],
    path: Path | str,
    names: Sequence[str],
    manifests: Sequence[Path | str],
    points: Sequence[Path | str],
    device_maps: Sequence[str | None],
    massive_norm: float | None,
    device: torch.device,
) -> list[Side]:
    """The sources of a dictionary, their models opened: one at two hook points only once.

    `facts` are those of the dictionary in `path`; all sequences are source by source: `manifests` the
    models' model.json, `points` their points.json, in which the median norm of a hook point stands.
    Rows of more than `massive_norm` times that norm are massive. Raises UserError where a model is not
    the one that the dictionary was fitted on.
    """
    placed = dict(zip(manifests, device_maps, strict=True))
    opened = {manifest: open_manifest(manifest, device, placed[manifest]) for manifest in placed}
    sides = []
    for name, manifest, measured, origin in zip(
        names, manifests, points, facts["origins"], strict=True
    ):
        model, described = opened[manifest]
        if described["digest"] != origin["model"]:
            raise UserError(
                f"{path}: fitted on other models than {manifest} describes; remove it and run the "
                "same snakemake command again"
            )
        point, most = Point.named(origin["hook"]), None
        if massive_norm is not None:
            every = artifact.read_json(measured)["points"].values()
            (norm,) = {m["median_norm"] for m in every if Point(m["hook"], m["layer"]) == point}
            most = massive_norm * norm
        sides.append(Side(name, model, point, most))
    return sides


def read_texts(
    paths: Sequence[Path | str],
    tokenizers: int,
    reads: Sequence[int],
    drop: Mapping[str, Any],
    across_documents: bool,
) -> Iterator[list[tuple[TokenShard, np.ndarray]]]:
    """Each token shard and the mask of its kept rows, as the model of each side reads it.

    `paths` are those of every shard by each of so many tokenizers in turn; `reads` is the number of
    each side's tokenizer, and `drop` what is left out.
    """
    for first in range(0, len(paths), tokenizers):
        shards = [read_token_shard(path) for path in paths[first : first + tokenizers]]
        masks = [
            kept_rows.kept_rows(shard, drop, across_documents, shards[:i] + shards[i + 1 :]).mask
            for i, shard in enumerate(shards)
        ]
        yield [(shards[i], masks[i]) for i in reads]


SAME = 0.1  # relative distance of rows run again from those stored: another machine, float16


@dataclass(frozen=True)
class Rerun:
    """The model of a source, and the text on which it is run again."""

    model: PreTrainedModel
    tokens: TokenShard  # one of those whose activations are stored
    across_documents: bool
    sequences: int  # so many, from its first
    batch: int  # sequences a pass


class Pass(NamedTuple):
    """Some sequences, and their rows as they are stored."""

    inputs: dict[str, Any]
    place: Tensor  # [row], where a row lies in the flattened sequences
    sources: list[Tensor]  # [row, d_s] each


def passes(data: AlignedRows, source: int, again: Rerun, name: str) -> Iterator[Pass]:
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
            yield Pass(
                packed_inputs(again.model, tokens.tokens[part], starts[part]),
                torch.from_numpy(place),
                [values[rows] for values in sources],
            )
        progress.advance(part.stop - part.start)
    progress.close()


class Runner:
    """Runs a pass and gives the source's rows anew, and the routing of one layer."""

    def __init__(self, capture: Capture, point: Point, layer: int, device: torch.device) -> None:
        self.capture, self.point, self.layer, self.device = capture, point, layer, device

    def rows(self, run: Pass) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [row, d], and experts and gates [position, k] of all positions, as one sequence."""
        found = self.capture(**run.inputs)
        values = found.points[self.point].flatten(0, 1)
        rows = values[run.place.to(values.device)].to(self.device).double()
        routing = found.routing[self.layer]
        return rows, routing.experts.flatten(0, 1).cpu(), routing.gates.flatten(0, 1).cpu()

    def masked(self, run: Pass, off: Tensor) -> Tensor:
        """Rows [row, d] with the gates at `off` [position, k] set to 0."""
        with masked_gates(self.capture.model, self.layer, off):
            return self.rows(run)[0]


def refuse_another_model(rows: Tensor, stored: Tensor, source: int) -> None:
    stored = stored.to(rows)
    if float((rows - stored).norm()) > SAME * float(stored.norm()):
        raise UserError(
            f"source {source}: the model run again does not give the rows that are stored; take the "
            "model, and the setting of attention across documents, that they were made with"
        )
