# What is asked of pairs, panels and SAEs; and what a model needs to be run again.


def files_of(fits, name):
    """A file of each of these dictionaries."""
    return [result(fit.path(name)) for fit in fits]


def measured_in_store():
    """Whether results go to a bucket that holds the numbers of a dictionary: the disk does not tell."""
    return STORE is not None and any(exists(path) for path in files_of(FITS, "metrics.json"))


def member_kinds(wildcards):
    return settings.kinds(member_of(wildcards))


def pair_shards(wildcards):
    """Validation shards of two sources: only these have classes of features."""
    member = member_of(wildcards)
    if len(member.sources) != 2:
        refuse(asked_for(wildcards), "only two sources have classes of features")
    return shards_of(member, "validation")


def moved_shards(wildcards):
    """Validation shards of two sources, whose rows are held against each other."""
    member = member_of(wildcards)
    if len(member.sources) != 2:
        refuse(
            f"{member.comparison}/{member.name}/moved.parquet", "only two sources have a distance"
        )
    return shards_of(member, "validation")


def panel_shards(wildcards):
    """Validation shards of a panel."""
    member = member_of(wildcards)
    if not settings.is_panel(config, member):
        names = ", ".join(source.name for source in member.sources)
        refuse(
            asked_for(wildcards),
            f"a panel has several models of each of two kinds (comparison: all), not {names}",
        )
    return shards_of(member, "validation")


def dosed_shards(wildcards):
    """Validation shards of models with a dose."""
    member = member_of(wildcards)
    if settings.doses(config, member) is None:
        refuse(
            f"{asked_for(wildcards)}/trend.json",
            "its comparison names no dose; write dose: [...] beside all: [...], an amount a model",
        )
    return shards_of(member, "validation")


def member_doses(wildcards):
    return settings.doses(config, member_of(wildcards))


# The effects that are planted into panels, by name: what the jobs of each are told.
TRIES = settings.planted_tries(config)
PLANTED_FITS = settings.planted_fits(config, FITS)


def planted_tries(wildcards):
    """Every effect planted into a panel."""
    fit = fit_of(wildcards)
    if fit not in PLANTED_FITS:
        refuse(
            f"{asked_for(wildcards)}/detectable.json",
            "no effects are planted there; name its comparison in detectable.comparisons, whose first "
            "recipe and seed are taken",
        )
    return [at("planted_try", **fit.place, planted=name) for name in TRIES]


def linear_map_shards(split, file="anchor.parquet"):
    """Input function: shards of several sources, which alone can be held against each other."""

    def shards(wildcards):
        member = member_of(wildcards)
        if len(member.sources) < 2:
            refuse(
                f"{member.comparison}/{member.name}/{file}",
                "it is about several sources",
            )
        return shards_of(member, split)

    return shards


def sae_fits(wildcards):
    """The SAEs in which features of the named dictionary can come again."""
    saes = roles.saes_of(config, FITS, fit_of(wildcards))
    if not saes:
        refuse(
            f"{asked_for(wildcards)}/recurs.parquet",
            "no SAE of its models has its recipe; add a comparison {each: [model]} under that "
            "recipe for each of them",
        )
    return saes


def sae_dictionaries(wildcards):
    return files_of(sae_fits(wildcards), "dictionary.safetensors")


def sae_shards(wildcards):
    """The validation shards of every SAE's source, one SAE after another."""
    return [path for fit in sae_fits(wildcards) for path in shards_of(fit.member, "validation")]


def sae_sources(wildcards):
    return [fit.member.name for fit in sae_fits(wildcards)]


def sae_points(wildcards):
    return [fit.member.sources[0].point for fit in sae_fits(wildcards)]


def sae_models(wildcards):
    """Names of the SAEs' sources by model."""
    by_model = {}
    for fit in sae_fits(wildcards):
        by_model.setdefault(fit.member.sources[0].model, []).append(fit.member.name)
    return by_model


# --- models run again ---


def source_models(wildcards):
    return [source.model for source in member_of(wildcards).sources]


def source_manifests(wildcards):
    return [manifest(source.model, source.seed) for source in member_of(wildcards).sources]


def source_weights(wildcards):
    return [path for source in member_of(wildcards).sources for path in model_files(source)]


def two_predictions(wildcards):
    """The manifests of two language models that read the same tokens; refused of anything else."""
    member = member_of(wildcards)
    if why := roles.why_no_divergence(config, member):
        refuse(f"{member.comparison}/{member.name}/divergence.parquet", why)
    return source_manifests(wildcards)


def tokens_of_sources(wildcards):
    """The token shards on which models are run again, each as the model of every source reads it."""
    return [
        token_files(model, "validation", number)[0]
        for number in range(settings.shards_again(config))
        for model in source_models(wildcards)
    ]


def source_measured(wildcards):
    """What every source's hook points were found to be."""
    return [
        at("points", model=source.model, seed=source.seed)
        for source in member_of(wildcards).sources
    ]


def source_drop(wildcards):
    """What is left out of the rows of the first source; which are massive stands in each one's points.json."""
    return settings.dropped(config, source_models(wildcards)[0])


def source_tokenizers(wildcards):
    """Place of every source's tokenizer among those of `tokens_again`."""
    every = [None, *settings.own_tokenizers(config)]
    return [every.index(m) if m in every else 0 for m in source_models(wildcards)]


def tokens_again(wildcards):
    """The token shards on which models are run again, each by the corpus's tokenizer and then by every other."""
    shards = settings.shards_again(config)
    return [path for number in range(shards) for path in token_files(None, "validation", number)]


def first_tokenizer(wildcards):
    """The tokenizer of a member's first source: the corpus's, or its checkpoint's own."""
    source = member_of(wildcards).sources[0]
    if source.model in settings.own_tokenizers(config):
        return manifest(source.model, source.seed)
    return at("tokenizer")


def source_model_weights(wildcards):
    """Megabytes of all models of a dictionary's sources, which are opened together."""
    return sum(resources.model_mb(config, model) for model in source_models(wildcards))
