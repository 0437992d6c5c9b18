# Helpers of the rules; no rule here, no function elsewhere.
import shutil
import sys
from pathlib import Path

import yaml
from moediff import claims, schema
from moediff import config as settings
from moediff.checks import complete
from moediff.errors import ConfigError

SCHEMA, PRESETS = (
    yaml.safe_load((Path(workflow.basedir) / "config" / name).read_text(encoding="utf-8"))
    for name in ("schema.yaml", "presets.yaml")
)
try:
    CLAIMS = claims.read_claims(Path(workflow.basedir) / "config/claims.yaml")
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


# --- corpus ---


def domain_settings(wildcards):
    """What a domain's documents are; how many are read is `domain_bytes`."""
    settings_of = config["corpus"]["domains"][wildcards.domain]
    return {k: v for k, v in settings_of.items() if k not in ("weight", "megabytes")}


def domain_files(wildcards):
    """The user's own text files: an edited or a new one reads the domain again."""
    return settings.text_files(config, wildcards.domain)


def domain_bytes(wildcards):
    return settings.text_bytes(config, wildcards.domain)


def corpus_files():
    return [result(f"corpus/{domain}.parquet") for domain in DOMAINS]


def tokenizer_sources(wildcards):
    """A trained tokenizer reads the corpus, a pretrained one its folder when it is local."""
    tokenizer = config["corpus"]["tokenizer"]
    return corpus_files() if "train" in tokenizer else settings.tokenizer_files(tokenizer["load"])


def token_shard(split, shard):
    return result(f"corpus/{split}/{int(shard):05d}.h5")


def token_shards(split):
    return [token_shard(split, shard) for shard in range(settings.shard_count(config, split))]


# --- models ---


def trial_files(wildcards):
    """The trials of a sweep over peak learning rates; none when one rate is given."""
    rates = settings.peak_rates(config, wildcards.model)
    if len(rates) == 1:
        return []
    return [result(f"models/{wildcards.model}/sweep/lr-{rate}.json") for rate in rates]


def best_rate_file(wildcards):
    several = len(settings.peak_rates(config, wildcards.model)) > 1
    return [result(f"models/{wildcards.model}/sweep/best.json")] if several else []


def model_settings(wildcards):
    """What decides what a checkpoint is; where it is placed changes no result."""
    settings_of = config["models"][wildcards.model]
    return {key: value for key, value in settings_of.items() if key != "device_map"}


def architecture(wildcards):
    return config["models"][wildcards.model]["train"]


def trial_settings(wildcards):
    """What decides a trial; its rate and its seed are chosen elsewhere."""
    left_out = ("seeds", "sweep_tokens", "peak_lr")
    kept = {key: value for key, value in config["training"].items() if key not in left_out}
    return kept | {"domains": config["models"][wildcards.model]["sees"]["domains"]}


def training_settings(wildcards):
    """What decides a training run: the rate itself unless a sweep chooses it."""
    rates = settings.peak_rates(config, wildcards.model)
    kept = trial_settings(wildcards) | {"share": config["models"][wildcards.model]["sees"]["share"]}
    return kept | ({"peak_lr": rates[0]} if len(rates) == 1 else {})


def whole_learners():
    """Models that learned from the whole train split: those whose loss is held against n-grams."""
    whole = {"domains": None, "share": 1}
    return [name for name in TRAINED if config["models"][name]["sees"] == whole]


def checkpoint_files(wildcards):
    """Files of a local checkpoint: a changed one is described again."""
    return settings.checkpoint_files(config["models"][wildcards.model]["load"])


def manifest(model, seed):
    return result(f"models/{model}/seed-{seed}/model.json")


def model_files(wildcards):
    """What a later stage needs of a model: its manifest, and its weights when trained here."""
    folder = f"models/{wildcards.model}/seed-{wildcards.seed}"
    names = ["model.json"]
    if wildcards.model in TRAINED:
        names += ["model.safetensors", "config.json"]
    return [result(f"{folder}/{name}") for name in names]


def manifests():
    return [manifest(m, seed) for m in LANGUAGE_MODELS for seed in settings.seeds(config, m)]


def histories():
    return [
        result(f"models/{m}/seed-{seed}/history.parquet")
        for m in TRAINED
        for seed in settings.seeds(config, m)
    ]


def ngrams():
    """The n-grams that language models must beat; none where there is no such model."""
    return [result("models/ngrams.json")] if LANGUAGE_MODELS else []


# --- activations ---


def reading_settings(wildcards):
    """What decides which activations a row is; layers as the config gives them."""
    kept = {key: config["activations"][key] for key in ("drop", "dtype", "routing")}
    return kept | {"points": settings.points(config)}


def token_files(model, split, shard):
    """A token shard as a model reads it, and the same text by every other tokenizer."""
    own = settings.own_tokenizers(config)
    found = {None: token_shard(split, shard)}
    found |= {name: result(f"retokenised/{name}/{split}/{int(shard):05d}.h5") for name in own}
    mine = found.pop(model if model in own else None)
    return [mine, *found.values()]


def tokens_of(wildcards):
    """The token files of a job; of the first fit shard where it has none."""
    split, shard = wildcards.get("split", "fit"), wildcards.get("shard", 0)
    return token_files(wildcards.model, split, shard)


def activation_shards(source, split):
    return [
        result(f"activations/{source.model}/seed-{source.seed}/{split}/{shard:05d}.zarr.zip")
        for shard in range(settings.model_shards(config, source.model, split))
    ]


def split_shards(wildcards):
    """The activation shards of one model and split."""
    return activation_shards(settings.Source(wildcards.model, wildcards.seed), wildcards.split)


def shard_file():
    """An activation shard; a temporary one where the disk is too small to keep all."""
    path = result("activations/{model}/seed-{seed}/{split}/{shard}.zarr.zip")
    return path if config["activations"]["keep"] else temp(path)


def row_manifests(wildcards):
    """What was kept of every source of a member, split by split."""
    sources = dict.fromkeys((s.model, s.seed) for s in member_of(wildcards).sources)
    return [
        result(f"activations/{model}/seed-{seed}/{split}.json")
        for model, seed in sources
        for split in settings.ROW_SPLITS
    ]


def rows_path(wildcards):
    """The file or folder of other code that a shard is made of; of the first fit shard without one."""
    split, shard = wildcards.get("split", "fit"), int(wildcards.get("shard", 0))
    return settings.row_paths(config, wildcards.model, split)[shard]


def rows_files(wildcards):
    """The same, file by file: an edited one is read again."""
    return settings.row_files(rows_path(wildcards))


def all_rows_files():
    """Every file of other code."""
    return [
        file
        for name in FOREIGN
        for split in settings.ROW_SPLITS
        for path in settings.row_paths(config, name, split)
        for file in settings.row_files(path)
    ]


def rows_array(wildcards):
    return config["models"][wildcards.model]["rows"]["array"]


def rows_domains(wildcards):
    return settings.row_domains(config, wildcards.model)


def rows_settings():
    """Where the rows of other code are read from, for the report."""
    return {name: config["models"][name]["rows"] for name in FOREIGN}


def member_of(wildcards):
    """The member that the wildcards name; refused where the config has no such dictionary."""
    asked = f"{wildcards.comparison}/{wildcards.member}"
    member = MEMBERS.get((wildcards.comparison, wildcards.member))
    if member is None:
        known = [name for comparison, name in MEMBERS if comparison == wildcards.comparison]
        refuse(asked, f"that comparison has {', '.join(known) or 'no dictionaries'}")
    if "recipe" in wildcards.keys():
        fit = settings.Fit(member, wildcards.recipe, int(wildcards.seed))
        if fit not in FITS:
            known = dict.fromkeys(fit_folder(f) for f in FITS if f.member == member)
            refuse(fit_folder(fit), f"not fitted by this config, but {', '.join(known)}")
    return member


def asked_for(wildcards):
    """The folder of the dictionary that the wildcards name, for a message."""
    return fit_folder(settings.Fit(member_of(wildcards), wildcards.recipe, wildcards.seed))


def pair_shards(wildcards):
    """Validation shards of two sources: only these have classes of features."""
    member = member_of(wildcards)
    if len(member.sources) != 2:
        refuse(f"{asked_for(wildcards)}/deletion.json", "only two sources have classes of features")
    return shards_of(member, "validation")


def panel_shards(wildcards):
    """Validation shards of a panel."""
    member = member_of(wildcards)
    if not settings.is_panel(config, member):
        names = ", ".join(source.name for source in member.sources)
        refuse(
            f"{asked_for(wildcards)}/panel.json",
            f"a panel has several models of each of two kinds (comparison: all), not {names}",
        )
    return shards_of(member, "validation")


def anchor_shards(split):
    """Input function: shards of several sources, which alone can be predicted from each other."""

    def found(wildcards):
        member = member_of(wildcards)
        if len(member.sources) < 2:
            refuse(
                f"{member.comparison}/{member.name}/anchor.parquet",
                "an anchor needs several sources",
            )
        return shards_of(member, split)

    return found


def routed_shards(wildcards):
    """Validation shards of a member, where the named source can have stored experts."""
    model = one_source(wildcards).model
    dense = model in TRAINED and config["models"][model]["train"]["experts"] == 1
    if dense or config["activations"]["routing"] == "none":
        refuse(
            f"{asked_for(wildcards)}/experts/{wildcards.source}",
            "no experts are stored; take an MoE, and set activations.routing to used",
        )
    return shards_of(member_of(wildcards), "validation")


def shards_of(member, split):
    """The shards of every source of a member, source by source."""
    return [path for source in member.sources for path in activation_shards(source, split)]


def member_shards(split):
    """Input function: the shards of the member that the wildcards name."""
    return lambda wildcards: shards_of(member_of(wildcards), split)


def source_names(wildcards):
    return [source.name for source in member_of(wildcards).sources]


def source_points(wildcards):
    """The hook point of every source; None: the only one that its shards have."""
    return [source.point for source in member_of(wildcards).sources]


def source_views(wildcards):
    """How a control shows the rows of every source; None: as they are."""
    return [source.view for source in member_of(wildcards).sources]


# --- dictionaries and metrics ---


def settings_of(fit):
    """What decides a dictionary; its preset is spelled out already."""
    recipe = config["recipes"][fit.recipe]
    return {
        "name": f"{fit.member.comparison}/{fit.member.name}/{fit.recipe}",
        "recipe": {k: v for k, v in recipe.items() if k not in ("seeds", "preset")},
        "seed": fit.seed,
    }


def fit_settings(wildcards):
    fit = settings.Fit(member_of(wildcards), wildcards.recipe, int(wildcards.seed))
    return [settings_of(fit)]


def fit_folder(fit):
    return f"dictionaries/{fit.member.comparison}/{fit.member.name}/{fit.recipe}/seed-{fit.seed}"


def dictionary_files(fit):
    """What the fit of a dictionary writes, in order."""
    names = ("dictionary.safetensors", "early.safetensors", "history.parquet")
    return [result(f"{fit_folder(fit)}/{name}") for name in names]


def fit_files(name, sources=None):
    """A file of every dictionary, or of those with `sources` sources."""
    return [
        result(f"{fit_folder(fit)}/{name}")
        for fit in FITS
        if sources in (None, len(fit.member.sources))
    ]


def pair_files(name):
    """A file of every dictionary over two models as they are."""
    return [
        result(f"{fit_folder(fit)}/{name}")
        for fit in FITS
        if len(fit.member.sources) == 2 and not any(source.view for source in fit.member.sources)
    ]


def has_pairs():
    return any(len(fit.member.sources) == 2 for fit in FITS)


def panel_files(name):
    """A file of every dictionary that is a panel."""
    return [
        result(f"{fit_folder(fit)}/{name}") for fit in FITS if settings.is_panel(config, fit.member)
    ]


def primary_panel_files(name):
    """The same of those that claims are about: of the primary recipe and models, with most seeds."""
    models = {PRIMARY["moe"], PRIMARY["dense"]}
    found = [
        fit
        for fit in FITS
        if settings.is_panel(config, fit.member)
        and fit.recipe == PRIMARY["recipe"]
        and models == {source.model for source in fit.member.sources}
    ]
    most = max((len(fit.member.sources) for fit in found), default=0)
    return [result(f"{fit_folder(fit)}/{name}") for fit in found if len(fit.member.sources) == most]


def known_panel_files(name):
    """The same of panels whose answer is known: models that learned all text, and models that did not."""
    whole = set(whole_learners())
    return [
        result(f"{fit_folder(fit)}/{name}")
        for fit in FITS
        if settings.is_panel(config, fit.member)
        and fit.recipe == PRIMARY["recipe"]
        and (models := {source.model for source in fit.member.sources}) <= set(TRAINED)
        and len(models & whole) == 1
    ]


def penalties_fault():
    """Why the two recipes that claims compare do not tell what their ratio of penalties does; empty: they do."""
    return claims.penalties_fault(
        *(config["recipes"].get(CLAIMS["penalties"][side]) for side in ("strong", "weak"))
    )


def analysis():
    """What decides how claims were measured, by the keys of the primary analysis."""
    recipe = config["recipes"].get(PRIMARY["recipe"], {})

    def named(kind):
        """The model that claims call so, unless the config trains one of the other kind under its name."""
        model = config["models"].get(PRIMARY[kind])
        several = "train" in (model or {}) and model["train"]["experts"] > 1
        other = model is None or ("train" in model and several != (kind == "moe"))
        return None if other else PRIMARY[kind]

    return {
        "moe": named("moe"),
        "dense": named("dense"),
        "hook": config["activations"]["hook"],
        "layer": config["activations"]["layer"],
        "recipe": PRIMARY["recipe"] if recipe else None,
        "features": recipe.get("features"),
        "k": recipe.get("k"),
        "bounds": config["features"]["bounds"],
        "user_floor": config["features"]["user_floor"],
    }


def member_kinds(wildcards):
    return settings.kinds(member_of(wildcards))


# --- recurrence ---


def saes_of(member, recipe):
    """The SAEs of a crosscoder's models at its hook points, of one recipe and its first seed: one a source."""
    sides = {(source.model, source.point) for source in member.sources}
    found = {}
    for fit in FITS:
        source, *others = fit.member.sources
        if (
            not others
            and source.view is None
            and (source.model, source.point) in sides
            and (fit.recipe, fit.seed) == (recipe, config["recipes"][recipe]["seeds"][0])
        ):
            found.setdefault(source, fit)
    return list(found.values())


def sae_fits(wildcards):
    found = saes_of(member_of(wildcards), wildcards.recipe)
    if not found:
        refuse(
            f"{asked_for(wildcards)}/recurs.parquet",
            "no SAE of its models has its recipe; add a comparison {each: [model]} under that "
            "recipe for each of them",
        )
    return found


def sae_dictionaries(wildcards):
    return [dictionary_files(fit)[0] for fit in sae_fits(wildcards)]


def sae_shards(wildcards):
    """The validation shards of every SAE's source, one SAE after another."""
    return [path for fit in sae_fits(wildcards) for path in shards_of(fit.member, "validation")]


def sae_sources(wildcards):
    return [fit.member.name for fit in sae_fits(wildcards)]


def sae_points(wildcards):
    return [fit.member.sources[0].point for fit in sae_fits(wildcards)]


def sae_models(wildcards):
    """Names of the SAEs' sources by model."""
    found = {}
    for fit in sae_fits(wildcards):
        found.setdefault(fit.member.sources[0].model, []).append(fit.member.name)
    return found


# --- models run again ---


def source_models(wildcards):
    return [source.model for source in member_of(wildcards).sources]


def source_manifests(wildcards):
    return [manifest(source.model, source.seed) for source in member_of(wildcards).sources]


def source_weights(wildcards):
    return [path for source in member_of(wildcards).sources for path in model_files(source)]


def source_measured(wildcards):
    """What every source's hook points were found to be."""
    return [
        result(f"activations/{source.model}/seed-{source.seed}/points.json")
        for source in member_of(wildcards).sources
    ]


def source_tokenizers(wildcards):
    """Place of every source's tokenizer among those of `tokens_again`."""
    every = [None, *settings.own_tokenizers(config)]
    return [every.index(m) if m in every else 0 for m in source_models(wildcards)]


def tokens_again(wildcards):
    """The token shards on which models are run again, each by the corpus's tokenizer and then by every other."""
    per_shard = config["corpus"]["shard_tokens"] // config["corpus"]["sequence"]["length"]
    needed = -(-config["reruns"]["sequences"] // per_shard)
    shards = min(needed, settings.shard_count(config, "validation"))
    return [path for n in range(shards) for path in token_files(None, "validation", n)]


def one_source(wildcards):
    """The source of a member that the wildcards name."""
    found = {source.name: source for source in member_of(wildcards).sources}
    if wildcards.source not in found:
        refuse(
            f"{asked_for(wildcards)}/experts/{wildcards.source}",
            f"its sources are {', '.join(found)}",
        )
    return found[wildcards.source]


def one_manifest(wildcards):
    return manifest(one_source(wildcards).model, one_source(wildcards).seed)


def one_weights(wildcards):
    return model_files(one_source(wildcards))


def one_tokens(wildcards):
    """The first validation tokens as the model of the source reads them."""
    return token_files(one_source(wildcards).model, "validation", 0)[0]


def one_device_map(wildcards):
    return config["models"][one_source(wildcards).model].get("device_map")


# --- report ---


def drawn_pair():
    """The dictionary over two models whose features are drawn: the first, of the primary recipe and models where
    there are such; None without one."""
    wanted = (PRIMARY["moe"], PRIMARY["dense"], PRIMARY["recipe"])
    pairs = [
        fit
        for fit in FITS
        if len(fit.member.sources) == 2
        and not any(source.view for source in fit.member.sources)
        and len({source.model for source in fit.member.sources}) == 2
    ]
    first = [fit for fit in pairs if (*(s.model for s in fit.member.sources), fit.recipe) == wanted]
    return next(iter(first + pairs), None)


def null_of(pair):
    """The dictionaries of the same recipe over two seeds of one of its models."""
    models = {source.model for source in pair.member.sources}
    return [
        fit
        for fit in FITS
        if fit.recipe == pair.recipe
        and len(fit.member.sources) == 2
        and not any(source.view for source in fit.member.sources)
        and len(own := {source.model for source in fit.member.sources}) == 1
        and own < models
    ]


def routed_source(pair):
    """The first source of a pair where it is an MoE that was trained here, else None: its experts are drawn."""
    model = pair.member.sources[0].model if pair else None
    routed = model in TRAINED and config["models"][model]["train"]["experts"] > 1
    return pair.member.sources[0] if routed and config["activations"]["routing"] != "none" else None


PAIR = drawn_pair()
RERUN = PAIR and all(source.model in LANGUAGE_MODELS for source in PAIR.member.sources)
ROUTED = routed_source(PAIR)
PLOTS = ["training"] if TRAINED else []
PLOTS += ["fve", "frontier"]
PLOTS += ["classes"] if has_pairs() else []
PLOTS += ["relative-norm", "density", "scaling"] if PAIR else []
PLOTS += ["domains"] if RERUN else []
PLOTS += ["affinity"] if ROUTED else []
PLOTS += ["panel"] if panel_files("panel.json") else []
FORMATS = ("html", "svg", "png")


def first_tokenizer(wildcards):
    """The tokenizer of a member's first source: the corpus's, or its checkpoint's own."""
    source = member_of(wildcards).sources[0]
    if source.model in settings.own_tokenizers(config):
        return manifest(source.model, source.seed)
    return result("corpus/tokenizer.json")


def browsed():
    """The dictionaries to look through on the page, whose text is known: the pair that is drawn, and the first SAE
    of each of its models; the first of all where there is no pair."""
    models = {source.model for source in PAIR.member.sources} if PAIR else set()
    saes = {}
    for fit in FITS:
        source, *others = fit.member.sources
        if not others and source.model in models and fit.recipe == PAIR.recipe:
            saes.setdefault(source.model, fit)
    found = [PAIR, *saes.values()] if PAIR else FITS[:1]
    return [
        fit
        for fit in found
        if all(s.model not in FOREIGN and not s.view for s in fit.member.sources)
    ]


def browsed_files(name):
    return [result(f"{fit_folder(fit)}/{name}") for fit in browsed()]


def pair_file(name):
    """A file of the dictionary whose features are drawn; none without one."""
    return [result(f"{fit_folder(PAIR)}/{name}")] if PAIR else []


def null_features():
    """The features of the first null dictionary of every model."""
    found = {fit.member.sources[0].model: fit for fit in reversed(null_of(PAIR) if PAIR else [])}
    return [result(f"{fit_folder(fit)}/features.parquet") for fit in found.values()]


def plot_files(name):
    return [result(f"plots/{name}.{kind}") for kind in FORMATS]


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
