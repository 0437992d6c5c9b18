"""Resolve the hook points of a model, prove them, and fix the powers of two by which rows are stored."""

from _job import job

with job(snakemake, torch_threads=True) as log:
    from moediff import artifact, capture, devices, models
    from moediff.config import resolve_layer
    from moediff.hooks import Point
    from moediff.tokens import read_token_shard

    params, wildcards = snakemake.params, snakemake.wildcards
    model, facts = models.open_manifest(
        snakemake.input.model[0],
        devices.pick_device(snakemake.config["device"]),
        snakemake.config["models"][wildcards.model].get("device_map"),
    )
    shard, *others = map(read_token_shard, snakemake.input.tokens)
    points = {
        name: Point(hook, resolve_layer(layer, facts["layers"], wildcards.model))
        for name, (hook, layer) in params.reading["points"].items()
    }
    found = capture.calibrate(
        model,
        capture.Reading(points, params.reading["routing"]),
        shard,
        capture.kept_rows(shard, params.reading["drop"], params.across, others),
        params.across,
        params.reading["dtype"],
    )
    made_by = artifact.made_by("activations", model=facts["digest"], reading=params.reading)
    artifact.write_json(snakemake.output[0], made_by | {"points": found})
    for name, measured in found.items():
        log.info("%s %s: %s", wildcards.model, name, measured)
