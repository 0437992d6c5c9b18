"""All of one training job: what it is given, in plain values that ranks can be sent, and what it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from transformers import PreTrainedModel

from moediff.core import artifact, checkpoint
from moediff.core.device import pick_device
from moediff.core.progress import log
from moediff.core.ranks import Ranks
from moediff.corpus.token_shards import TokenSplit
from moediff.corpus.tokenizer import read_vocabulary
from moediff.models import loading, parameters
from moediff.training import inits, loop
from moediff.training.plan import Plan


@dataclass(frozen=True)
class Task:
    """Paths are strings; `training` and `architecture` hold the config's keys, `state` all checkpoints."""

    name: str
    seed: int
    training: Mapping[str, Any]
    architecture: Mapping[str, Any]
    peak_lr: float
    tokens: Sequence[str]  # of the train split
    validation: Sequence[str]
    vocabulary: str
    across: bool  # attention crosses documents
    init: str | None  # model.json of the model that it begins with
    device: str
    state: str
    version: int
    weights: str
    history: str
    manifest: str
    keep: Sequence[int] = ()  # steps whose weights stay
    kept: Sequence[str] = ()  # manifests of these
    sharded: bool = False


def run(task: Task, *, ranks: Ranks) -> None:
    """Train the task's model, from scratch or from the weights that it begins with, and write it."""
    train = TokenSplit(task.tokens, task.across, task.state)
    if task.training["domains"]:
        train = train.only(task.training["domains"])
    plan = Plan.of(task.training, task.peak_lr, task.seed)
    if task.training["share"] < 1:
        plan = replace(plan, sequences=round(task.training["share"] * len(train)))
    validation = TokenSplit(task.validation, task.across, task.state)
    vocabulary = read_vocabulary(task.vocabulary)
    device = pick_device(task.device)
    init = task.training.get("init", {})
    start = inits.Start(
        task.architecture, vocabulary.size, train.tokens.shape[1], vocabulary.end_of_text, task.seed,
        task.init if init else None,
    )  # fmt: skip
    model = inits.begin(init, start)
    counts = parameters.count_parameters(model)
    log.info("%s: %s parameters, %s active", task.name, f"{counts.total:,}", f"{counts.active:,}")
    inputs = [train.digest, validation.digest, vocabulary.digest]
    facts = {"architecture": task.architecture, "plan": plan.facts(), "inputs": inputs}
    facts |= inits.provenance(init, start)
    key = task.name, facts, task.version, device.type
    state = checkpoint.folder(Path(task.state), "train", *key)
    history = loop.train(
        model, plan, train, validation, state, device, task.name, task.keep, ranks, task.sharded
    )
    if ranks.leads:
        if (
            task.sharded and plan.sequences != 0
        ):  # what no rank holds whole the last checkpoint does
            tensors, _ = checkpoint.newest(state) or ({}, {})
            model = inits.begin(init, start)
            checkpoint.load(model, checkpoint.weights_of(tensors))
        _write(task, model.cpu(), history, state, facts)
    ranks.wait()


def _write(
    task: Task, model: PreTrainedModel, history: pl.DataFrame, state: Path, facts: Mapping[str, Any]
) -> None:
    """The model, its history and manifest, and those of the steps that are kept."""
    folder = Path(task.weights).parent
    loading.save(model, folder)
    made_by = artifact.made_by("models", seed=task.seed, **facts)
    artifact.write_parquet(task.history, history, made_by)
    loading.write_manifest(task.manifest, model, folder, ".", "float32", made_by)
    for step, manifest in zip(task.keep, task.kept, strict=True):
        loop.take_kept(model, state, step)
        kept = Path(manifest).parent
        loading.save(model, kept)
        loading.write_manifest(manifest, model, kept, ".", "float32", made_by | {"step": step})
