"""Cache the activations of one model on one token shard, and the routing on the way."""

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    from moediff.activations import caching, kept_rows
    from moediff.core import artifact, device
    from moediff.corpus.token_shards import read_token_shard
    from moediff.hooks.points import Point
    from moediff.models import loading, suitability

    params, wildcards = snakemake.params, snakemake.wildcards
    model, facts = loading.open_manifest(
        snakemake.input.model[0],
        device.pick_device(snakemake.config["device"]),
        snakemake.config["models"][wildcards.model].get("device_map"),
    )
    measured = artifact.read_json(snakemake.input.points)["points"]
    points = {name: Point(found["hook"], found["layer"]) for name, found in measured.items()}
    shard, *others = map(read_token_shard, snakemake.input.tokens)
    suitability.check_context(model, shard.tokens.shape[1], wildcards.model)
    count = caching.cache(
        model,
        caching.Reading(points, params.reading["routing"]),
        caching.stored_points(measured, params.reading["drop"]["massive_norm"]),
        shard,
        kept_rows.kept_rows(shard, params.reading["drop"], params.across, others),
        params.across,
        params.reading["dtype"],
        params.batch,
        params.chunk_rows,
        snakemake.output[0],
        artifact.made_by("activations", model=facts["digest"]),
        f"{wildcards.model}.{wildcards.seed} {wildcards.split} {wildcards.shard}",
    )
    log.info("%s: %d rows", snakemake.output[0], count)
