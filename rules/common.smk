# What all rules share: the config, names and paths. Input functions stand in inputs/; no rule there, no function elsewhere.
import shutil
import sys
from pathlib import Path

import yaml
from moediff import config as settings
from moediff.claims import reading
from moediff.config import schema
from moediff.config.complete import complete
from moediff.core.errors import ConfigError
from moediff.report.charts import CHARTS

SCHEMA, PRESETS = (
    yaml.safe_load((Path(workflow.basedir) / "config" / name).read_text(encoding="utf-8"))
    for name in ("schema.yaml", "presets.yaml")
)
try:
    CLAIMS = reading.read_claims(Path(workflow.basedir) / "config/claims.yaml")
    config.update(complete(config, SCHEMA, PRESETS))
except ConfigError as error:
    sys.exit(f"config error: {error}")

DOMAINS = list(config.get("corpus", {}).get("domains", []))
TRAINED = [name for name, model in config["models"].items() if "train" in model]
LOADED = [name for name, model in config["models"].items() if "load" in model]
FOREIGN = [name for name, model in config["models"].items() if "rows" in model]
LANGUAGE_MODELS = [name for name in config["models"] if name not in FOREIGN]
FITS = settings.fits(config)
# Jobs that fit several dictionaries.
SHARED = [together for together in settings.shared_fits(config) if len(together) > 1]
MEMBERS = {(fit.member.comparison, fit.member.name): fit.member for fit in FITS}
# What a job of models or dictionaries takes of the resource gpu; a cluster profile sets its own.
GPU = 1 if config["device"] != "cpu" and shutil.which("nvidia-smi") else 0
# Two heavy jobs share the cores: two models on one thread each train faster than one on two.
THREADS = max(1, (workflow.cores or 2) // 2)
VERSIONS = settings.STAGE_VERSIONS
# What planted worlds are fitted by: our default recipe and the paper's, whatever the config's are.
PLANTED_RECIPES = {
    "default": schema.defaults(SCHEMA, "recipe"),
    "paper": schema.recipe_of(SCHEMA, PRESETS, "2603.05805"),
}
# A member whose models can be run again: a control's rows are no model's.
AS_IT_IS = r"(?!.*\.(?:permuted|rotated)(?:[_@/]|$))[A-Za-z0-9._@-]+"
PRIMARY = CLAIMS["primary"]  # the analysis that claims are judged by


def result(path):
    """A path under the results folder: the one place where that folder is named."""
    return f"{config['results']}/{path}"


# A dictionary's folder among those of one kind.
FIT = "{comparison}/{member}/{recipe}/seed-{seed}"


def of_fit(name):
    """A file of the dictionary that the wildcards name."""
    return result(f"dictionaries/{FIT}/{name}")


def log_of(name):
    return result(f"logs/{name}.log")


def benchmark_of(name):
    return result(f"benchmarks/{name}.tsv")


def refuse(what, why):
    """End the command with one line before any job: what was asked for cannot be had from this config."""
    sys.exit(f"config error: {what}: {why}")


def one_of(names):
    """A wildcard constraint that matches these names only; none at all when there are none."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    domain=one_of(DOMAINS),
    model=one_of(config["models"]),
    recipe=one_of(config["recipes"]),
    comparison=one_of(config["comparisons"]),
    member=r"[A-Za-z0-9._@-]+",
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
include: "inputs/claims.smk"
include: "inputs/report.smk"
