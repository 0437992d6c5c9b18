# What all rules share: the config, names and paths. Input functions stand in inputs/; no rule there, no function elsewhere.
import os
import sys
from functools import cache
from pathlib import Path

import yaml
from moediff import config as settings
from moediff.claims import fixing, reading
from moediff.config import (
    config_files,
    layout,
    locks,
    made_in,
    places,
    planning,
    profiles,
    recipes,
    resources,
    roles,
    schema,
)
from moediff.config.complete import complete
from moediff.config.layout import one_of
from moediff.core.errors import ConfigError, UserError
from moediff.report import events
from moediff.report.charts import CHARTS, of_each
from snakemake.exceptions import WorkflowError

SCHEMA, PRESETS = (
    yaml.safe_load((Path(workflow.basedir) / "config" / name).read_text(encoding="utf-8"))
    for name in ("schema.yaml", "presets.yaml")
)
try:
    places.check_interpreter(sys.executable)
    config_files.check_files(workflow.configfiles)
    CLAIMS, EXPERT_CLAIMS = (
        reading.read_claims(Path(workflow.basedir) / "config/claims.yaml", group)
        for group in reading.GROUPS
    )
    config.update(complete(config, SCHEMA, PRESETS))
    made_in.check(config["results"], Path.cwd(), made_in.config_digest(config))
except ConfigError as error:
    sys.exit(f"config error: {error}")

planning.lighten(workflow, temporary=not config["activations"]["keep"])

# A run that is killed leaves its lock, which stops the next one. Jobs read this file too.
if workflow.is_main_process:
    print(locks.left_behind(Path(".snakemake"), sys.argv), end="", file=sys.stderr)

DOMAINS = list(config.get("corpus", {}).get("domains", []))
_, TRAINED, LOADED, EXTERNAL = (
    settings.models_of(config, kind) for kind in settings.KINDS.values()
)
LANGUAGE_MODELS = settings.language_models(config)
FITS = settings.fits(config)
# Jobs that fit several dictionaries.
SHARED = [together for together in settings.shared_fits(config) if len(together) > 1]
SHARED_SHARDS = settings.shared_shards(config)
MEMBERS = {(fit.member.comparison, fit.member.name): fit.member for fit in FITS}
# Two heavy jobs share the cores: two models on one thread each train faster than one on two. Where a
# cluster runs the jobs (no cores are given) neither the machine that reads this has a say nor the node, which
# others share.
CORES = None if workflow.remote_exec else workflow.resource_settings.cores
THREADS = max(1, CORES // 2) if CORES else 4
# Where results go if not to the disk: an object store, as s3; None: to the disk.
STORE = getattr(workflow.storage_settings, "default_storage_provider", None)
VERSIONS = settings.STAGE_VERSIONS
# What planted worlds are fitted by: our default recipe and the paper's, whatever the config's are.
PLANTED_RECIPES = {
    "default": schema.defaults(SCHEMA, "recipe"),
    "paper": schema.recipe_of(SCHEMA, PRESETS, "2603.05805"),
}
# A member whose models can be run again: a control's rows are no model's.
AS_IT_IS = r"(?!.*\.(?:permuted|rotated)(?:[_@/]|$))[A-Za-z0-9._@+-]+"
# The analysis that claims are judged by, its panels, and those whose answer is known.
PRIMARY = CLAIMS["primary"]
PRIMARY_PANELS = roles.primary_panels(config, FITS, PRIMARY)
KNOWN_PANELS = roles.known_panels(config, FITS, PRIMARY)
# Why the two recipes that claims compare do not tell what their ratio of penalties does; empty: they do.
PENALTIES_FAULT = reading.penalties_fault(
    *(config["recipes"].get(CLAIMS["penalties"][side]) for side in ("strong", "weak"))
)


onstart:
    if workflow.is_main_process:
        try:
            made_in.claim(config["results"], Path.cwd(), made_in.config_digest(config))
            digests = [claims["digest"] for claims in (CLAIMS, EXPERT_CLAIMS)]
            fixing.fix(
                Path(config["results"]), dict(zip(reading.GROUPS, digests)), measured_in_store()
            )
        except UserError as error:
            sys.exit(f"config error: {error}")


def result(path):
    """A path under the results folder: the one place where that folder is named."""
    return f"{config['results']}/{path}"


def at(kind, **values):
    """A path of `layout.PATHS` under the results folder; what is not given is a wildcard."""
    return result(layout.path(kind, **values))


def of_fit(name):
    """A file of the dictionary that the wildcards name."""
    return at("dictionary", file=name)


def of_source(name):
    """A file of one source's experts, of the dictionary that the wildcards name."""
    return at("experts", file=name)


def log_of(name):
    return at("log", job=name)


def benchmark_of(name):
    return at("benchmark", job=name)


def megabytes_of(input):
    """Megabytes of files. Of what lies here each is looked at once, and none after one that is not made yet."""
    if any(file.is_storage for file in input):
        return input.size_mb
    return sum(os.path.getsize(file) for file in input) / resources.MEGABYTE


def needs(
    stage,
    weights=lambda wildcards: 0,
    work=lambda wildcards: 0,
    megabytes=megabytes_of,
    memory=None,
):
    """Resources of a rule: memory and minutes that grow with its input and each attempt, and `gpu` if it has one.

    `weights` gives megabytes of a model or dictionary, `work` its parameters times tokens or rows, `megabytes`
    what of the input counts, `memory` what of it counts for memory, if that is not the same. Without a GPU
    the word `gpu` is left out, since Kubernetes puts a job that has it on a node with one.
    """

    def amount(name, size):
        return lambda wildcards, input, attempt: resources.needs(
            stage, config["device"], size(input), weights(wildcards), work(wildcards), attempt
        )[name]

    gpu = resources.needs(stage, config["device"])["gpu"]
    asked = {
        "mem_mb": amount("mem_mb", memory or megabytes),
        "runtime": amount("runtime", megabytes),
    }
    return asked | ({"gpu": gpu} if gpu else {})


def refuse(what, why):
    """End the command with one line before any job: what was asked for cannot be had from this config."""
    sys.exit(f"config error: {what}: {why}")


def check_store():
    """End the command with one line where results go to a bucket that cannot be reached, before any job."""
    if not workflow.is_main_process or STORE is None:
        return
    try:
        exists(result("fve.json"))
    except WorkflowError as error:
        why = str(error).splitlines()[-1]
        refuse(
            f"{workflow.storage_settings.default_storage_prefix}: cannot be reached",
            f"{why}; see to the network, the endpoint and the keys, then run the same command again",
        )


check_store()


wildcard_constraints:
    domain=one_of(DOMAINS),
    model=one_of(config["models"]),
    recipe=one_of(config["recipes"]),
    comparison=one_of(config["comparisons"]),
    member=r"[A-Za-z0-9._@+-]+",
    source=r"[A-Za-z0-9.@_-]+",
    split=one_of(settings.SPLITS),
    seed=r"\d+",
    shard=r"\d{5}",
    rate=r"[0-9.e+-]+",


include: "inputs/corpus.smk"
include: "inputs/models.smk"
include: "inputs/training.smk"
include: "inputs/activations.smk"
include: "inputs/dictionaries.smk"
include: "inputs/exchange.smk"
include: "inputs/analysis.smk"
include: "inputs/experts.smk"
include: "inputs/report.smk"
