# The source whose experts are asked for, and what its model needs to be run again.


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
