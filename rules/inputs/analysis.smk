# Which files of which dictionaries there are; what is asked of pairs, panels and SAEs; what a model needs to be run again.


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


def member_kinds(wildcards):
    return settings.kinds(member_of(wildcards))


def pair_shards(wildcards):
    """Validation shards of two sources: only these have classes of features."""
    member = member_of(wildcards)
    if len(member.sources) != 2:
        refuse(asked_for(wildcards), "only two sources have classes of features")
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


def first_tokenizer(wildcards):
    """The tokenizer of a member's first source: the corpus's, or its checkpoint's own."""
    source = member_of(wildcards).sources[0]
    if source.model in settings.own_tokenizers(config):
        return manifest(source.model, source.seed)
    return result("corpus/tokenizer.json")
