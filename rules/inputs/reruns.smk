# What a model needs to be run again, source by source.


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
