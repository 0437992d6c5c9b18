"""Cache the activations of one model on one token shard, and the routing on the way."""

from moediff.job import job, model_and_text

with job(snakemake, torch_threads=True) as log:
    from moediff.activations import caching
    from moediff.core import artifact
    from moediff.hooks.points import Point
    from moediff.models import suitability

    params, wildcards = snakemake.params, snakemake.wildcards
    model, facts, shard, kept = model_and_text(snakemake)
    suitability.check_context(model, shard.tokens.shape[1], wildcards.model)
    measured = caching.read_points(snakemake.input.points, facts["digest"])
    points = {name: Point(found["hook"], found["layer"]) for name, found in measured.items()}
    count = caching.cache(
        model,
        caching.Reading(points, params.reading["routing"]),
        caching.stored_points(measured, params.reading["drop"]["massive_norm"]),
        shard,
        kept,
        params.across,
        params.reading["dtype"],
        params.batch,
        params.chunk_rows,
        snakemake.output[0],
        artifact.made_by("activations", model=facts["digest"]),
        f"{wildcards.model}.{wildcards.seed} {wildcards.split} {wildcards.shard}",
    )
    log.info("%s: %d rows", snakemake.output[0], count)
