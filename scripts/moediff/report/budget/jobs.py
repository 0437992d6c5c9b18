"""What a run asks of a place: by stage the jobs, the memory of the largest, bytes on disk, hours by profile.

All is arithmetic on a config and on rates that are given: no text is read, whatever its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from moediff.config import activations, comparisons, models, resources, training
from moediff.config.base import ROW_SPLITS, SPLITS, Config
from moediff.config.corpus import text_bytes, text_files
from moediff.config.detectable import planted_tries
from moediff.config.kinds import EXTERNAL, TRAINED, language_models, models_of
from moediff.config.resources import MEGABYTE

# Measured on made text and on the default config (benchmarks/README.md): a domain's table on disk for each
# byte of its text, bytes of a token in a shard, and of a distinct n-gram while counts are merged.
TABLE_SHARE = 0.45
PACKED_BYTES = 6.0
NGRAM_BYTES = 32
TEXT_BYTES = 8  # of a token at most, as `text_bytes` has it
READ_BYTES = (
    4  # of a token, in the file from which training and n-grams read it: tokens, domain, starts
)
SPANS = 11  # of a token as packing keeps it: itself, its characters, whether a word ends


class Rates(NamedTuple):
    """Text read in bytes a second, packed and counted in tokens a second; None: not measured."""

    documents: float | None = None
    packing: float | None = None
    ngrams: float | None = None


class _Asked(NamedTuple):
    """What the largest job of a stage asks for, as its rule does."""

    needs: str  # name in `resources.STAGES`
    megabytes: float = 0.0
    weights: float = 0.0
    work: float = 0.0


def plan(
    config: Config,
    stages: Sequence[Mapping[str, Any]],
    rates: Rates,
    places: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """`stages`, each {stage, jobs, memory_mb, gigabytes, meanwhile_gigabytes, hours, hours_by_profile}, and
    `profiles` {jobs, gpu, hours}.

    `stages` given are rows of `table.estimate`, `places` as `profiles.places` gives them. Hours are one job
    after another; those of a profile are of stage after stage, as many jobs of each at once as it runs, all
    as fast as here. `meanwhile` is what the jobs of a stage hold on disk while they run, all at once. What is
    not known is null.
    """
    rows = [*_of_text(config, rates), *_of_stages(config, stages)]
    for row in rows:
        gpu = resources.needs(row.pop("needs"), config["device"])["gpu"]
        row["hours_by_profile"] = {
            name: _hours(row["jobs"], row["hours"], _at_once(place, gpu))
            for name, place in places.items()
        }
    totals = {
        name: {
            **place,
            "hours": round(sum(row["hours_by_profile"][name] or 0.0 for row in rows), 3),
        }
        for name, place in places.items()
    }
    unknown = [row["stage"] for row in rows if row["hours"] is None]
    return {"stages": rows, "profiles": totals, "hours_not_known": unknown}


def _at_once(place: Mapping[str, Any], gpu: int) -> int:
    limited = gpu and place["gpu"] is not None
    return min(place["jobs"], place["gpu"]) if limited else place["jobs"]


def _hours(jobs: int, hours: float | None, at_once: int) -> float | None:
    """Of jobs of one length, so many at once."""
    if hours is None or not jobs:
        return hours
    return round(math.ceil(jobs / at_once) * hours / jobs, 4)


def _row(
    config: Config,
    stage: str,
    jobs: int,
    asked: _Asked,
    gigabytes: float | None,
    meanwhile: float,
    hours: float | None,
) -> dict[str, Any]:
    megabytes = resources.needs(
        asked.needs, config["device"], asked.megabytes, asked.weights, asked.work
    )["mem_mb"]
    return {
        "stage": stage, "jobs": jobs, "memory_mb": megabytes, "needs": asked.needs,
        "gigabytes": None if gigabytes is None else round(gigabytes, 3),
        "meanwhile_gigabytes": round(meanwhile, 3),
        "hours": None if hours is None else round(hours, 4),
    }  # fmt: skip


# --- text ---------------------------------------------------------------------------------------------


def _of_text(config: Config, rates: Rates) -> list[dict[str, Any]]:
    """Documents, tokenizer, token shards, n-grams."""
    if "corpus" not in config:
        return []
    tokens, domains = config["corpus"]["tokens"], list(config["corpus"]["domains"])
    sizes = {name: _domain_bytes(config, name) for name in domains}
    text, count = sum(sizes.values()), sum(tokens.values())
    tables = text * TABLE_SHARE
    own = [sum(path.stat().st_size for path in _files(config, name)) for name in domains]
    largest = max(tokens.values())
    shares = config["corpus"]["splits"]
    share = max(1 - sum(shares.values()), *shares.values())
    learned = tokens["train"] + tokens["validation"]
    packed = _Asked("tokens", tables / MEGABYTE)
    read = _Asked("tokens", learned * PACKED_BYTES / MEGABYTE)
    return [
        _row(config, "documents", len(domains), _Asked("documents", max(own) / MEGABYTE), tables / 1e9,
             0.0, _seconds(text, rates.documents)),
        _row(config, "tokenizer", 1, packed, 0.0, 0.0, None),
        _row(config, "token shards", len(SPLITS), packed, count * PACKED_BYTES / 1e9,
             (share * text + largest * SPANS) / 1e9, _seconds(count, rates.packing)),
        _row(config, "n-grams", 1, read, 0.0, (learned * READ_BYTES + tokens["train"] * NGRAM_BYTES) / 1e9,
             _seconds(tokens["train"], rates.ngrams)),
    ]  # fmt: skip


def _domain_bytes(config: Config, domain: str) -> int:
    known = text_bytes(config, domain)
    return known if known is not None else sum(f.stat().st_size for f in _files(config, domain))


def _files(config: Config, domain: str) -> list[Path]:
    return [Path(path) for path in text_files(config, domain)]


def _seconds(amount: float, rate: float | None) -> float | None:
    """Hours of an amount at so much a second."""
    return None if rate is None else amount / rate / 3600


# --- models and dictionaries --------------------------------------------------------------------------


def _of_stages(config: Config, stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The stages of an estimate, rows of one name together."""
    names = dict.fromkeys(row["stage"] for row in stages)
    found = []
    for name in names:
        if name == "token shards":  # its bytes and hours are told above
            continue
        rows = [row for row in stages if row["stage"] == name]
        each = [row["hours"] for row in rows]
        sizes = [row["gigabytes"] for row in rows]
        jobs = _JOBS[name](config) if name in _JOBS else len(rows)
        asked = _ASKED.get(name, lambda config: _Asked("analysis", 0.0, _dictionary_mb(config)))
        meanwhile = 0.0
        if name == "training":
            learned = config["corpus"]["tokens"]["train"] + config["corpus"]["tokens"]["validation"]
            meanwhile = jobs * learned * READ_BYTES / 1e9
        found.append(
            _row(config, name, jobs, asked(config), None if None in sizes else sum(sizes), meanwhile,
                 None if None in each else sum(each))
        )  # fmt: skip
    return found


def _training_jobs(config: Config) -> int:
    """Runs of every seed, and trials of the sweep where a rate is chosen of several."""
    jobs = 0
    for name in models_of(config, TRAINED):
        rates = len(training.peak_rates(config, name))
        jobs += len(models.seeds(config, name)) + (rates if rates > 1 else 0)
    return jobs


def _caching_jobs(config: Config) -> int:
    shared = len(activations.shared_shards(config))
    external = models_of(config, EXTERNAL)
    alone = list(config["models"]) if config["shards_per_job"] == 1 else external
    return shared + sum(
        len(models.seeds(config, name)) * activations.model_shards(config, name, split)
        for name in alone
        for split in ROW_SPLITS
    )


_JOBS: dict[str, Callable[[Config], int]] = {
    "training": _training_jobs,
    "calibration": lambda config: sum(
        len(models.seeds(config, name)) for name in language_models(config)
    ),
    "activations": _caching_jobs,
    "dictionary": lambda config: len(comparisons.shared_fits(config)),
    "planted": lambda config: len(planted_tries(config)),
}


def _model_mb(config: Config) -> float:
    return max((resources.model_mb(config, name) for name in language_models(config)), default=0.0)


def _training(config: Config) -> _Asked:
    """The largest run of those that are trained here."""
    largest = _Asked("training")
    for name in models_of(config, TRAINED):
        megabytes = resources.model_mb(config, name)
        epochs = training.training_of(config, name)["epochs"]
        work = megabytes * MEGABYTE / 4 * config["corpus"]["tokens"]["train"] * epochs
        if megabytes >= largest.weights:
            largest = _Asked("training", 0.0, megabytes, work)
    return largest


def _shard(config: Config) -> _Asked:
    if not language_models(config):
        return _Asked("external")
    return _Asked("activations", **resources.largest_shard(config, language_models(config)))


def _dictionary_mb(config: Config) -> float:
    """Of the largest job: of all dictionaries that one fits."""
    together = comparisons.shared_fits(config)
    return max(
        (sum(resources.dictionary_mb(config, f.member, f.recipe) for f in fits) for fits in together),
        default=0.0,
    )  # fmt: skip


_ASKED: dict[str, Callable[[Config], _Asked]] = {
    "training": _training,
    "calibration": _shard,
    "activations": _shard,
    "dictionary": lambda config: _Asked("dictionaries", 0.0, _dictionary_mb(config)),
    "planted": lambda config: _Asked("dictionaries", 0.0, _dictionary_mb(config)),
    **dict.fromkeys(
        ("principal components", "moved", "similarity", "divergence"),
        lambda config: _Asked("components"),
    ),
    **dict.fromkeys(
        ("splicing", "panel_loss"), lambda config: _Asked("reruns", 0.0, 2 * _model_mb(config))
    ),
    **dict.fromkeys(("figures", "charts", "report"), lambda config: _Asked("tables")),
}
