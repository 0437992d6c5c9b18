"""Rates of the stages, each measured by what the stage itself runs, on made data of a config's sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from moediff.activations import caching
from moediff.activations.kept_rows import kept_rows
from moediff.activations.rows import AlignedRows
from moediff.analysis import deletion, evaluation, examples, features, latent_scaling, panel
from moediff.analysis.classes import CLASSES
from moediff.config import activations, training
from moediff.config.base import Config
from moediff.config.layout import SHARD
from moediff.config.recipes import normalisation
from moediff.core import artifact
from moediff.corpus.token_shards import read_token_shard
from moediff.dictionaries.dictionary import Dictionary, in_float64
from moediff.dictionaries.fitting import begun, exact_threshold
from moediff.dictionaries.normalising import NORMALISERS
from moediff.dictionaries.principal_components import Baseline, principal_components
from moediff.dictionaries.trainer import Fitter
from moediff.hooks.points import Point
from moediff.models.parameters import count_parameters
from moediff.models.suitability import check_context
from moediff.report.budget import made
from moediff.report.budget.clock import Cost, cost, rate, taken
from moediff.report.budget.made import MadeFit
from moediff.training.plan import Plan
from moediff.training.step import Step

ROWS = 2048  # fewest on which a stage is timed

# --- language models -----------------------------------------------------------------------------


@dataclass
class Reader:
    """What is known of a language model: its width, and rates in tokens a second where it could be run."""

    width: int | None = None
    why: str | None = None  # it could not be run
    model: PreTrainedModel | None = None
    points: dict[str, Point] = field(default_factory=dict)
    vocabulary: int = 0
    parameters: int = 0  # of one that is trained here
    opening: float = 0.0  # seconds
    training: float | None = None
    calibration: float | None = None
    caching: float | None = None
    routing: dict[str, Tensor] = field(default_factory=dict)  # [row, ...], of a few rows

    @property
    def routing_bytes(self) -> int:
        """Of a row."""
        return sum(part[0].nbytes for part in self.routing.values())


def open_reader(config: Config, name: str, opened: Callable[[], PreTrainedModel]) -> Reader:
    """A model, how long it takes to open, and its sizes."""
    found: list[PreTrainedModel] = []
    opening = taken(lambda: found.append(opened()))
    (model,) = found
    text = model.config.get_text_config()
    points = {
        point: Point(hook, activations.resolve_layer(layer, text.num_hidden_layers, name))
        for point, (hook, layer) in activations.points(config).items()
    }
    return Reader(text.hidden_size, None, model, points, text.vocab_size, opening=opening)


def measure_training(reader: Reader, config: Config, name: str) -> None:
    """Steps of a plan that the config gives the model, whatever its peak rate."""
    plan = Plan.of(training.training_of(config, name), 1e-4, 0)
    model = reader.model
    assert model is not None
    reader.parameters = count_parameters(model).total
    length = config["corpus"]["sequence"]["length"]
    data = made.MadeTokens(plan.batch, length, reader.vocabulary)
    step, rows = Step(model, plan, model.device), np.arange(plan.batch)

    def work() -> int:
        step.take(data, rows, 1e-4)  # type: ignore[arg-type]  # has what a step asks of a TokenSplit
        return data.tokens.size

    reader.training = rate(work)
    model.eval().requires_grad_(False)


def measure_caching(reader: Reader, config: Config, name: str, folder: Path) -> None:
    """A batch of sequences, calibrated and cached as the jobs do."""
    settings, corpus, model = config["activations"], config["corpus"], reader.model
    assert model is not None
    length, across = corpus["sequence"]["length"], corpus["sequence"]["attend_across_documents"]
    check_context(model, length, name)
    path = made.text(
        folder / f"{name}-read.h5", settings["batch"], length, reader.vocabulary, list(corpus["domains"])
    )  # fmt: skip
    shard = read_token_shard(path)
    drop = activations.dropped(config, name)
    kept = kept_rows(shard, drop, across)
    reading = caching.Reading(reader.points, settings["routing"])
    measured: dict[str, dict[str, Any]] = {}

    def calibrate() -> int:
        measured.update(
            caching.calibrate(
                model, reading, shard, kept, across, settings["dtype"], drop["massive_norm"]
            )
        )
        return shard.tokens[: caching.CALIBRATION_SEQUENCES].size

    def cache() -> int:
        stored = caching.stored_points(measured, drop["massive_norm"])
        caching.cache(
            model, reading, stored, shard, kept, across, settings["dtype"], settings["batch"],
            settings["chunk_rows"], folder / f"{name}{SHARD}", artifact.made_by("activations", model=name),
        )  # fmt: skip
        return shard.tokens.size

    reader.calibration = rate(calibrate)
    reader.caching = rate(cache)
    batches = caching.captured(model, reading, shard, kept.mask, across, settings["batch"])
    _, reader.routing = next(iter(batches))


# --- a dictionary --------------------------------------------------------------------------------


def components(
    recipe: Mapping[str, Any], rows: Callable[[int], AlignedRows]
) -> tuple[Cost, Baseline]:
    """Principal components of rows normalised as a recipe's, by fit rows."""
    name = normalisation(recipe)
    found: list[Baseline] = []
    by_rows = cost(lambda size: found.append(principal_components(rows(size), name)), ROWS)
    return by_rows, found[-1]


def fitted(
    recipe: Mapping[str, Any], rows: AlignedRows, device: torch.device
) -> tuple[float, Dictionary]:
    """Rows a second of fitting, and the dictionary that this made, with its threshold."""
    standards = NORMALISERS[normalisation(recipe)].fitted(rows)
    dictionary = begun(recipe, rows.widths, standards, 0)
    fitter = Fitter(dictionary.to(device), recipe)
    every = rows.every()
    with closing(rows.shuffled(every, recipe["batch"], recipe["pool_chunks"], 0)) as stream:

        def step() -> int:
            batch = dictionary.standardise([part.to(device) for part in next(stream)])
            fitter.update(batch)
            return len(batch)

        speed = rate(step)
    dictionary.requires_grad_(False)
    threshold = exact_threshold(dictionary, rows, every, recipe["k"], recipe["batch"])
    dictionary.threshold.fill_(threshold)
    return speed, dictionary


def metrics(one: MadeFit, config: Config) -> Cost:
    """What a dictionary is on validation rows, by these."""
    dead, bounds = config["features"]["dead_below"], tuple(config["features"]["bounds"])

    def work(size: int) -> None:
        rows, batch = one.rows(size), one.recipe["batch"]
        dictionary = in_float64(one.dictionary, one.device)
        for baseline in (None, one.baseline):  # early in its fit, and at its end
            found = evaluation.measure(
                dictionary, baseline, rows, one.names, one.recipe, one.device
            )
            one.table = features.feature_table(
                dictionary, found, one.names, rows.domains, dead, bounds
            )
        if len(one.names) == 2:
            nu = latent_scaling.latent_scaling(dictionary, rows, batch, one.device)
            one.table = features.with_scaling(one.table, nu)

    return cost(work, ROWS)


def deletions(one: MadeFit) -> Cost:
    """Classes deleted one by one, by validation rows."""
    classes = np.arange(one.features) % len(CLASSES)

    def work(size: int) -> None:
        deletion.deleted_together(
            one.dictionary, one.rows(size), classes, len(CLASSES), one.recipe["batch"], one.device
        )

    return cost(work, ROWS)


def panels(one: MadeFit, config: Config, kinds: Mapping[str, Sequence[str]]) -> Cost:
    """Groups of a panel, each with features, deleted and judged, by validation rows."""
    first, floor = len(next(iter(kinds.values()))), config["features"]["user_floor"]
    names = [name for of_kind in kinds.values() for name in of_kind]
    alive, batch = np.ones(one.features, bool), one.recipe["batch"]

    def work(size: int) -> None:
        rows, dictionary = one.rows(size), in_float64(one.dictionary, one.device)
        for _ in ("early", "end"):
            alone = deletion.deleted_alone(dictionary, rows, batch, one.device)
        sets = panel.group(panel.users(alone, alive, floor), first).sets
        # A made dictionary has few user sets, and a fitted one may have features of every one.
        one.groups[first] = groups = panel.Groups(sets, np.arange(one.features) % len(sets))
        together = deletion.deleted_together(
            dictionary, rows, groups.group_of, len(groups.sets), batch, one.device
        )
        own = [groups.group_of == n for n in panel.own_groups(groups, first, len(names))]
        units, lost, held = deletion.deleted_by_group(dictionary, rows, own, batch, one.device)
        intervals = panel.text_intervals(lost, held, units, kinds)
        panel.judge(panel.panel_rows(groups, together, names), kinds, intervals)

    return cost(work, ROWS)


def example_texts(one: MadeFit, vocabulary: int) -> Cost:
    """The strongest rows of every feature and their text, by validation rows."""
    words = made.tokenizer(vocabulary)

    def work(size: int) -> None:
        one.examples = examples.feature_examples(
            one.dictionary, one.rows(size), words, one.recipe["batch"], one.device
        )

    return cost(work, 4 * ROWS)  # on fewer a feature has no whole set of examples
