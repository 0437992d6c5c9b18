"""Tokens, bytes and hours of a run, before anything starts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from moediff.activations.caching import CALIBRATION_SEQUENCES
from moediff.activations.shards import TYPES
from moediff.analysis import similarity
from moediff.config import activations, base, models, training
from moediff.config.base import Config
from moediff.config.corpus import sequences, shard_count
from moediff.config.detectable import planted_fits, planted_tries
from moediff.config.kept import kept_steps
from moediff.config.kinds import EXTERNAL, TRAINED, kind
from moediff.config.layout import Fit
from moediff.config.recipes import NONE, normalisation
from moediff.report.budget.clock import quiet
from moediff.report.budget.measuring import COMPONENTS, Study, external_size

SPARE = 0.95  # of the free disk, that a run may fill before it is warned of
COLUMN_BYTES = sum(np.dtype(kind).itemsize for kind in TYPES.values())  # of what a row is
NOTE = (
    "hours are of one job after another on this machine, each rate measured for a moment on made data; "
    "left out are the reading of text, the start of each job (seconds of imports), what only gathers "
    "tables, charts of the whole study, and what is asked for by name; where a number is null, `why` "
    "says what is not known, and the sums leave it out"
)


def estimate(config: Config, device: torch.device, primary: Mapping[str, Any]) -> dict[str, Any]:
    """Rows {stage, name, amount, rate, hours, gigabytes, why} and their sums.

    Models are built, or opened where they lie on this machine, and run on made tokens; dictionaries
    are fitted and measured on made rows. Nothing is fetched: hours of a checkpoint that would have to be
    are null, and so is what depends on its width. `primary` are the models and the recipe that claims
    are about. `config` has `plots` and `results` too.
    """
    with TemporaryDirectory(prefix="moediff-budget-") as folder, quiet():
        stages = list(_rows(config, Study(config, device, primary, Path(folder))))
    sums = {
        name: [stage[name] for stage in stages if stage[name] is not None]
        for name in ("hours", "gigabytes")
    }
    return {
        "stages": stages,
        "hours": round(sum(sums["hours"]), 4),
        "gigabytes": round(sum(sums["gigabytes"]), 3),
        "unknown": {name: len(stages) - len(known) for name, known in sums.items()},
        "device": device.type,
        "note": NOTE,
    }


def disk(stages: Sequence[Mapping[str, Any]], folder: Path, keep: bool) -> dict[str, Any]:
    """Gigabytes that a run takes and that are free where it writes, and a warning if they are too few.

    What is there already counts as taken again; a stage whose size is not known does not count. Shards
    that are not kept go once all that reads them is made; until then they are there.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    sizes = [(stage["stage"], stage["gigabytes"] or 0.0) for stage in stages]
    need = sum(size for _, size in sizes)
    shards = sum(size for stage, size in sizes if stage == "activations")
    warning = None
    if need > SPARE * free:
        advice = (
            "fit on fewer tokens, or write results elsewhere"
            if not keep
            else "set activations.keep to false, so that shards go once they are read, or write "
            "results elsewhere"
        )
        least = "at least " if any(stage["gigabytes"] is None for stage in stages) else ""
        warning = (
            f"{least}{need:.1f} GB are needed, {shards:.1f} of them for activation shards, and "
            f"{free:.1f} GB are free in {folder}/: {advice}"
        )
    return {"free_gigabytes": round(free, 1), "kept": keep, "warning": warning}


def _rows(config: Config, study: Study) -> Iterator[dict[str, Any]]:
    if "corpus" in config:
        width = 2 if study.vocabulary <= 2**16 else 4
        count = sum(config["corpus"]["tokens"].values())
        why = "reading text is not timed"
        yield _row("token shards", "", count, None, count * (width + 1), why)
    for name in config["models"]:
        if kind(config, name) is EXTERNAL:
            yield _external(config, name)
        else:
            yield from _of_model(config, name, study)
    yield from _of_dictionaries(config, study)


def _value_bytes(config: Config) -> int:
    return 2 if config["activations"]["dtype"] == "float16" else 4


def _external(config: Config, name: str) -> dict[str, Any]:
    count, width = external_size(config, name)
    size = count * (width * _value_bytes(config) + COLUMN_BYTES)
    return _row("activations", name, count, None, size, "external activations are copied")


def _of_model(config: Config, name: str, study: Study) -> Iterator[dict[str, Any]]:
    """Its training where it is trained here, its calibration, its shards of activations."""
    reader, tokens = study.readers[name], config["corpus"]["tokens"]
    number = len(models.seeds(config, name))
    if kind(config, name) is TRAINED:
        peaks, settings = training.peak_rates(config, name), training.training_of(config, name)
        trials = len(peaks) * settings["sweep_tokens"] if len(peaks) > 1 else 0
        learned = tokens["train"] * config["models"][name]["sees"]["share"] * settings["epochs"]
        seen = round(learned) * number + trials
        # A checkpoint holds weights and two moments; two of them are kept. What is kept on the way lies there
        # and with the models.
        copies = number * (1 + 2 * len(kept_steps(config, name))) + 2 * 3 * (number + len(peaks))
        saved = 4 * reader.parameters * copies or None
        yield _row("training", name, seen, _seconds(seen, reader.training), saved, reader.why)
    first = min(CALIBRATION_SEQUENCES, sequences(config, "fit"))
    first *= config["corpus"]["sequence"]["length"] * number
    taken = _seconds(first, reader.calibration, reader.opening * number)
    yield _row("calibration", name, first, taken, 0, reader.why)
    cached, size = (tokens["fit"] + tokens["validation"]) * number, None
    if reader.width is not None:
        each = reader.width * _value_bytes(config) * len(activations.points(config))
        size = cached * (each + COLUMN_BYTES + reader.routing_bytes)
    shards = number * sum(shard_count(config, split) for split in base.ROW_SPLITS)
    taken = _seconds(cached, reader.caching, reader.opening * shards)
    yield _row("activations", name, cached, taken, size, reader.why)


def _of_dictionaries(config: Config, study: Study) -> Iterator[dict[str, Any]]:
    """Every stage of the dictionaries that it is about, stage by stage; the page at last."""
    asked = study.asked
    baselines = {(fit.member, _normalisation(config, fit)): fit for fit in asked["dictionary"]}
    for (member, normalise), fit in baselines.items():
        amount, name = _rows_in(config, fit, "fit"), f"{member.comparison}/{member.name}"
        name += "" if normalise == NONE else f" ({normalise})"
        taken, why = study.seconds(COMPONENTS, fit, amount)
        yield _row("principal components", name, amount, taken, 0, why)
    for stage, amount_of in AMOUNTS.items():
        for fit in asked[stage]:
            amount = amount_of(config, fit)
            taken, why = study.seconds(stage, fit, amount)
            size = _fit_bytes(config, fit, study) if stage == "dictionary" else 0
            yield _row(stage, _name(fit), amount, taken, size, why)
    tries = len(planted_tries(config))
    for fit in planted_fits(config, asked["dictionary"]):  # each try fits the dictionary anew
        amount = _fit_rows(config, fit) * tries
        taken, why = study.seconds("dictionary", fit, amount)
        yield _row("planted", _name(fit), amount, taken, 0, why)
    for source in study.routed():
        (fit,) = asked["affinity"]
        amount = _validation_rows(config, fit)
        taken, why = study.affinity(source, amount)
        yield _row("affinity", f"{_name(fit)}/{source.name}", amount, taken, 0, why)
    parts = [study.seconds("report", fit, _features(config, fit)) for fit in asked["report"]]
    whys = [why for _, why in parts if why is not None]
    taken = None if whys else sum(seconds for seconds, _ in parts if seconds is not None)
    amount = sum(_features(config, fit) for fit in asked["report"])
    yield _row("report", "", amount, taken, 0, next(iter(whys), None))


def _name(fit: Fit) -> str:
    return f"{fit.member.comparison}/{fit.member.name}/{fit.recipe}/{fit.seed}"


def _normalisation(config: Config, fit: Fit) -> str:
    return normalisation(config["recipes"][fit.recipe])


def _fit_bytes(config: Config, fit: Fit, study: Study) -> int | None:
    """Of a dictionary and the checkpoints of its fit; None where a width is not known."""
    if study.unknown(fit):
        return None
    return 4 * 2 * _features(config, fit) * sum(study.widths(fit)) * (1 + 2 * 3)


# --- amounts -------------------------------------------------------------------------------------


def _rows_in(config: Config, fit: Fit, split: str) -> int:
    """Rows of a dictionary's sources in a split, as if none were left out."""
    name = fit.member.sources[0].model
    if kind(config, name) is EXTERNAL:
        return external_size(config, name, [split])[0]
    return config["corpus"]["tokens"][split]


def _validation_rows(config: Config, fit: Fit) -> int:
    return _rows_in(config, fit, "validation")


def _sequences(config: Config, fit: Fit) -> int:
    return min(config["reruns"]["sequences"], sequences(config, "validation"))


def _features(config: Config, fit: Fit) -> int:
    return config["recipes"][fit.recipe]["features"]


def _fit_rows(config: Config, fit: Fit) -> int:
    return config["recipes"][fit.recipe]["rows"]


# Stage -> what is counted of a dictionary there.
AMOUNTS: dict[str, Callable[[Config, Fit], int]] = {
    "dictionary": _fit_rows,
    **dict.fromkeys(
        ("metrics", "deletion", "panel", "examples", "matching", "moved"), _validation_rows
    ),
    "similarity": lambda config, fit: min(_validation_rows(config, fit), similarity.ROWS),
    **dict.fromkeys(("splicing", "divergence", "panel_loss"), _sequences),
    **dict.fromkeys(("figures", "charts"), _features),
}


def _seconds(amount: float, speed: float | None, opening: float = 0.0) -> float | None:
    """What tokens take at so many a second, where it is known; each job opens the model first."""
    return None if speed is None else amount / speed + opening


def _row(
    stage: str,
    name: str,
    amount: int,
    seconds: float | None,
    size: int | None,
    why: str | None = None,
) -> dict[str, Any]:
    """A row; `amount` in tokens, rows, sequences or features, `size` in bytes."""
    return {
        "stage": stage,
        "name": name,
        "amount": amount,
        "rate": round(amount / seconds, 3) if seconds else None,
        "hours": None if seconds is None else round(seconds / 3600, 4),
        "gigabytes": None if size is None else round(size / 1e9, 3),
        "why": why,
    }
