"""Tokens, bytes and hours of a run, before anything starts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moediff.activations import external
from moediff.activations.shards import TYPES
from moediff.config import activations, base, comparisons, models, training
from moediff.config.base import Config
from moediff.config.kinds import EXTERNAL, LOADED, kind_of, models_of
from moediff.config.rows import row_paths
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.trainer import Fitter
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point
from moediff.models import build
from moediff.models.inputs import model_inputs
from moediff.models.parameters import count_parameters
from moediff.training.plan import Plan
from moediff.training.step import Step

VOCABULARY = 50_257  # assumed when a pretrained tokenizer is named: that of GPT-2
SPARE = 0.95  # of the free disk, that a run may fill before it is warned of
SECONDS = 2.0  # of measuring, for each rate
COLUMN_BYTES = sum(np.dtype(kind).itemsize for kind in TYPES.values())  # of what a row is
ROUTE_BYTES = 6  # of an expert and its gate
WIDTH_UNKNOWN = 768  # assumed for a Hub checkpoint, whose width is known only once it is fetched


class MadeTokens:
    """A few packed sequences of random tokens, as `TokenSplit` gives them."""

    domains = ("made",)

    def __init__(self, sequences: int, length: int, vocabulary: int) -> None:
        random = np.random.default_rng(0)
        self.tokens = random.integers(0, vocabulary, (sequences, length)).astype(np.uint32)
        self.domain = np.zeros_like(self.tokens, np.uint8)
        self.starts = np.zeros(self.tokens.shape, bool)
        self.starts[:, 0] = True
        self.is_target = ~self.starts[:, 1:]


def _rate(work: Callable[[], int]) -> float:
    """Units of work a second: the first call, which warms up, is not counted."""
    work()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        done += work()
    return done / (time.perf_counter() - began)


def estimate(config: Config, device: torch.device) -> dict[str, Any]:
    """Rows {stage, name, amount, rate, hours, gigabytes} and their sums.

    Trained models are built and stepped on made tokens, dictionaries on made rows; a checkpoint of
    the Hub is not fetched, and its hours are null, as are those of external activations.
    Text reading and plots are left out: seconds beside the rest.
    """
    stages = []
    if "corpus" in config:
        tokens, length = config["corpus"]["tokens"], config["corpus"]["sequence"]["length"]
        vocabulary = config["corpus"]["tokenizer"].get("train", VOCABULARY)
        width_of_token = 2 if vocabulary <= 2**16 else 4
        stages.append(_stage("token shards", "", sum(tokens.values()), None, width_of_token + 1))
    value = 2 if config["activations"]["dtype"] == "float16" else 4
    widths = {}
    for name, model in config["models"].items():
        if kind_of(model) is EXTERNAL:
            count, widths[name] = _size_of_rows(config, name)
            row_bytes = widths[name] * value + COLUMN_BYTES
            stages.append(_stage("activations", name, count, None, row_bytes))
            continue
        number = len(models.seeds(config, name))
        widths[name] = models.model_width(config, name) or WIDTH_UNKNOWN
        cached = (tokens["fit"] + tokens["validation"]) * number
        row_bytes = widths[name] * value * len(activations.points(config)) + COLUMN_BYTES
        if kind_of(model) is LOADED:
            stages.append(_stage("activations", name, cached, None, row_bytes))
            continue
        rates, settings = training.peak_rates(config, name), training.training_of(config, name)
        trials = len(rates) * settings["sweep_tokens"] if len(rates) > 1 else 0
        learned = tokens["train"] * model["sees"]["share"] * settings["epochs"]
        seen = round(learned) * number + trials
        training_rate, forward_rate, parameters = _measure_model(
            config, name, vocabulary, length, device
        )
        # A checkpoint holds weights and two moments; two of them are kept.
        saved = 4 * parameters * (number + 2 * 3 * (number + len(rates)))
        row = _stage("training", name, seen, training_rate, 0)
        stages.append(row | {"gigabytes": round(saved / 1e9, 3)})
        row_bytes += _routing_bytes(model["train"], config)
        stages.append(_stage("activations", name, cached, forward_rate, row_bytes))
    measured: dict[tuple, float] = {}
    for fit in comparisons.fits(config):
        recipe = config["recipes"][fit.recipe]
        sources = [widths[source.model] for source in fit.member.sources]
        key = (fit.recipe, *sources)
        if key not in measured:
            measured[key] = _measure_fit(recipe, sources, device)
        name = f"{fit.member.comparison}/{fit.member.name}/{fit.recipe}/{fit.seed}"
        size = 4 * 2 * recipe["features"] * sum(sources) * (1 + 2 * 3)
        row = _stage("dictionary", name, recipe["rows"], measured[key], 0)
        stages.append(row | {"gigabytes": round(size / 1e9, 3)})
    copied = bool(models_of(config, EXTERNAL))
    hours = [stage["hours"] for stage in stages if stage["hours"] is not None]
    return {
        "stages": stages,
        "hours": round(sum(hours), 4),
        "gigabytes": round(sum(stage["gigabytes"] for stage in stages), 3),
        "device": device.type,
        "note": "hours are of one job after another on this machine; null where a checkpoint of "
        "the Hub would have to be fetched to be timed"
        + (", and where external activations are copied" if copied else ""),
    }


def disk(stages: Sequence[Mapping[str, Any]], folder: Path, keep: bool) -> dict[str, Any]:
    """Gigabytes that a run takes and that are free where it writes, and a warning if they are too few.

    What is there already counts as taken again. Shards that are not kept go once all that reads
    them is made; until then they are there.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    need = sum(stage["gigabytes"] for stage in stages)
    shards = sum(stage["gigabytes"] for stage in stages if stage["stage"] == "activations")
    warning = None
    if need > SPARE * free:
        advice = (
            "fit on fewer tokens, or write results elsewhere"
            if not keep
            else "set activations.keep to false, so that shards go once they are read, or write "
            "results elsewhere"
        )
        warning = (
            f"{need:.1f} GB are needed, {shards:.1f} of them for activation shards, and "
            f"{free:.1f} GB are free in {folder}/: {advice}"
        )
    return {"free_gigabytes": round(free, 1), "kept": keep, "warning": warning}


def _routing_bytes(architecture: Mapping[str, Any], config: Config) -> int:
    """Bytes of a row's routing in a model trained here, all of whose layers are alike."""
    kind, layers = config["activations"]["routing"], architecture["layers"]
    if kind == "none" or architecture["experts"] == 1:
        return 0
    deepest = max(
        activations.resolve_layer(of, layers, "") for _, of in activations.points(config).values()
    )
    each = ROUTE_BYTES * architecture["top_k"]
    each += 4 * architecture["experts"] if kind == "probabilities" else 0
    return (deepest + 1) * each


def _size_of_rows(config: Config, model: str) -> tuple[int, int]:
    """Rows over all files of external activations, and their width."""
    array = config["models"][model]["rows"]["array"]
    shapes = [
        external.open_rows(path, array)[0].shape
        for split in base.ROW_SPLITS
        for path in row_paths(config, model, split)
    ]
    return sum(rows for rows, _ in shapes), shapes[0][1]


def _stage(stage: str, name: str, amount: int, rate: float | None, each: int) -> dict[str, Any]:
    """One row; `rate` in tokens or rows a second, `each` in bytes."""
    return {
        "stage": stage,
        "name": name,
        "amount": amount,
        "rate": None if rate is None else round(rate, 1),
        "hours": None if rate is None else round(amount / rate / 3600, 4),
        "gigabytes": round(amount * each / 1e9, 3),
    }


def _measure_model(
    config: Config, name: str, vocabulary: int, length: int, device: torch.device
) -> tuple[float, float, int]:
    """Tokens a second of training and of caching a model, and the number of its parameters."""
    architecture = config["models"][name]["train"]
    model = build.build(architecture, vocabulary, length, 0, 0)
    plan = Plan.of(training.training_of(config, name), 1e-4, 0)
    data = MadeTokens(plan.batch, length, vocabulary)
    rows = np.arange(plan.batch)
    step = Step(model, plan, device)

    def train() -> int:
        step.take(data, rows, 1e-4)  # type: ignore[arg-type]  # has what a step asks of a TokenSplit
        return data.tokens.size

    training_rate = _rate(train)
    layers = architecture["layers"]
    points = [
        Point(hook, activations.resolve_layer(layer, layers, "model"))
        for hook, layer in activations.points(config).values()
    ]
    inputs = model_inputs(data.tokens, data.starts, device)
    with Capture(model.eval(), points, config["activations"]["routing"] != "none") as capture:

        def forward() -> int:
            capture(**inputs)
            return data.tokens.size

        forward_rate = _rate(forward)
    return training_rate, forward_rate, count_parameters(model).total


def _measure_fit(recipe: Mapping[str, Any], widths: list[int], device: torch.device) -> float:
    """Rows a second of fitting."""
    fitter = Fitter(Dictionary(Shape.of(recipe, widths)).to(device), recipe)
    rows = torch.randn(recipe["batch"], sum(widths), device=device) / sum(widths) ** 0.5

    def step() -> int:
        fitter.update(rows)
        return len(rows)

    return _rate(step)
