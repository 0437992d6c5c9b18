"""Cache the activations of one model on one token shard, and the routing on the way."""

from _job import job

with job(snakemake, torch_threads=True) as log:
    from moediff import artifact, capture, devices, models
    from moediff.hooks import Point
    from moediff.tokens import read_token_shard

    params, wildcards = snakemake.params, snakemake.wildcards
    model, facts = models.open_manifest(
        snakemake.input.model[0],
        devices.pick_device(snakemake.config["device"]),
        snakemake.config["models"][wildcards.model].get("device_map"),
    )
    measured = artifact.read_json(snakemake.input.points)["points"]
    points = {name: Point(found["hook"], found["layer"]) for name, found in measured.items()}
    shard, *others = map(read_token_shard, snakemake.input.tokens)
    models.check_context(model, shard.tokens.shape[1], wildcards.model)
    count = capture.cache(
        model,
        capture.Reading(points, params.reading["routing"]),
        capture.stored_points(measured, params.reading["drop"]["massive_norm"]),
        shard,
        capture.kept_rows(shard, params.reading["drop"], params.across, others),
        params.across,
        params.reading["dtype"],
        params.batch,
        params.chunk_rows,
        snakemake.output[0],
        artifact.made_by("activations", model=facts["digest"]),
        f"{wildcards.model}.{wildcards.seed} {wildcards.split} {wildcards.shard}",
    )
    log.info("%s: %d rows", snakemake.output[0], count)
