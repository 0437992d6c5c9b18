# The MoEs, and the source whose experts are asked for, and what its model needs to be run again.


def moes():
    """Models that may have experts: of a loaded one nothing says so before. Those of an earlier step apart."""
    return [
        model
        for model in LANGUAGE_MODELS
        if settings.has_experts(config, model) is not False
        and "kept" not in config["models"][model]
    ]


def of_moes(name):
    """A file of every model of `moes` and its seeds."""

    def files(wildcards):
        found = moes()
        if not found:
            refuse(name, "no model of this config has experts")
        return [
            at("moe", model=model, seed=seed, file=name)
            for model in found
            for seed in settings.seeds(config, model)
        ]

    return files


def of_judged_moe(name):
    """A file of every seed of the MoE that claims are about."""

    def files(wildcards):
        model = PRIMARY["moe"]
        if model not in moes():
            refuse(result("expert_claims.json"), f"no model '{model}' of this config has experts")
        return [
            at("moe", model=model, seed=seed, file=name) for seed in settings.seeds(config, model)
        ]

    return files


def routed_split(wildcards):
    """The validation shards of a model, where they can have stored experts."""
    dense = settings.has_experts(config, wildcards.model) is False
    if dense or config["activations"]["routing"] == "none":
        refuse(
            at("moe", model=wildcards.model, seed=wildcards.seed, file="routing.json"),
            "no experts are stored; take an MoE, and set activations.routing to used",
        )
    source = settings.Source(wildcards.model, wildcards.seed)
    return activation_shards(source, "validation")


def own_tokens(split):
    """Input function: the first token shards of a split as the named model reads them, as many as reruns need."""

    def files(wildcards):
        if settings.has_experts(config, wildcards.model) is False:
            refuse(
                at("moe", model=wildcards.model, seed=wildcards.seed, file=""), "it has no experts"
            )
        shards = range(settings.shards_again(config, split))
        return [token_files(wildcards.model, split, shard)[0] for shard in shards]

    return files


def own_device_map(wildcards):
    return config["models"][wildcards.model].get("device_map")


def one_source(wildcards):
    """The source of a member that the wildcards name."""
    sources = {source.name: source for source in member_of(wildcards).sources}
    if wildcards.source not in sources:
        refuse(
            f"{asked_for(wildcards)}/experts/{wildcards.source}",
            f"its sources are {', '.join(sources)}",
        )
    return sources[wildcards.source]


def routed_shards(wildcards):
    """Validation shards of a member, where the named source can have stored experts."""
    dense = settings.has_experts(config, one_source(wildcards).model) is False
    if dense or config["activations"]["routing"] == "none":
        refuse(
            f"{asked_for(wildcards)}/experts/{wildcards.source}",
            "no experts are stored; take an MoE, and set activations.routing to used",
        )
    return shards_of(member_of(wildcards), "validation")


def one_manifest(wildcards):
    return manifest(one_source(wildcards).model, one_source(wildcards).seed)


def one_weights(wildcards):
    return model_files(one_source(wildcards))


def one_tokens(wildcards):
    """The first validation tokens as the model of the source reads them."""
    return token_files(one_source(wildcards).model, "validation", 0)[0]


def one_device_map(wildcards):
    return config["models"][one_source(wildcards).model].get("device_map")


def one_model_weights(wildcards):
    return resources.model_mb(config, one_source(wildcards).model)


def one_usage(wildcards):
    source = one_source(wildcards)
    return at("moe", model=source.model, seed=source.seed, file="usage.parquet")
