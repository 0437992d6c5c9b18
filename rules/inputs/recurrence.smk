# The SAEs in which features of a crosscoder can come again.


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
