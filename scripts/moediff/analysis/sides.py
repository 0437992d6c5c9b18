"""The sources of a dictionary opened to be run again: their models, and the text as each reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from moediff.activations import kept_rows
from moediff.analysis.reruns import Text
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.corpus.token_shards import TokenShard, read_token_shard
from moediff.hooks.points import Point
from moediff.models.loading import open_manifest


@dataclass(frozen=True)
class Side:
    """One source of a dictionary, run anew."""

    name: str
    model: PreTrainedModel
    point: Point
    most: float | None = None  # norm above which a row is massive: it is not replaced


def open_models(
    manifests: Sequence[Path | str], device_maps: Sequence[str | None], device: torch.device
) -> list[tuple[PreTrainedModel, dict[str, Any]]]:
    """The model of every model.json, and what that says of it; one that is named twice is opened once."""
    placed = dict(zip(manifests, device_maps, strict=True))
    opened = {manifest: open_manifest(manifest, device, placed[manifest]) for manifest in placed}
    return [opened[manifest] for manifest in manifests]


def open_sides(
    facts: Mapping[str, Any],
    path: Path | str,
    names: Sequence[str],
    manifests: Sequence[Path | str],
    points: Sequence[Path | str],
    device_maps: Sequence[str | None],
    device: torch.device,
) -> list[Side]:
    """The sources of a dictionary, their models opened: one at two hook points only once.

    `facts` are those of the dictionary in `path`; all sequences are source by source: `manifests` the
    models' model.json, `points` their points.json, in which the median norm of a hook point stands,
    and how many times that norm a row must have to be massive. Raises UserError where a model is not the
    one that the dictionary was fitted on.
    """
    sides = []
    opened = open_models(manifests, device_maps, device)
    for name, manifest, (model, described), measured, origin in zip(
        names, manifests, opened, points, facts["origins"], strict=True
    ):
        if described["digest"] != origin["model"]:
            raise UserError(
                f"{path}: fitted on other models than {manifest} describes; remove it and run the "
                "same snakemake command again"
            )
        point, most = Point.named(origin["hook"]), None
        found = artifact.read_json(measured)
        massive_norm = found["reading"]["drop"]["massive_norm"]
        if massive_norm is not None:
            every = found["points"].values()
            (norm,) = {m["median_norm"] for m in every if Point(m["hook"], m["layer"]) == point}
            most = massive_norm * norm
        sides.append(Side(name, model, point, most))
    return sides


def read_shards(paths: Sequence[Path | str], together: int) -> Iterator[list[TokenShard]]:
    """Token shards so many at a time, the same text side by side; a file that is named twice is read once."""
    for first in range(0, len(paths), together):
        own = paths[first : first + together]
        read = {path: read_token_shard(path) for path in dict.fromkeys(own)}
        yield [read[path] for path in own]


def read_texts(
    paths: Sequence[Path | str],
    tokenizers: int,
    reads: Sequence[int],
    drop: Mapping[str, Any],
    across_documents: bool,
) -> Iterator[list[Text]]:
    """Each token shard, and which of its tokens have a row, as the model of each side reads it.

    `paths` are those of every shard by each of so many tokenizers in turn; `reads` is the number of
    each side's tokenizer, and `drop` what is left out.
    """
    for shards in read_shards(paths, tokenizers):
        masks = [
            kept_rows.kept_rows(shard, drop, across_documents, shards[:i] + shards[i + 1 :]).mask
            for i, shard in enumerate(shards)
        ]
        yield [Text(shards[i], masks[i]) for i in reads]
