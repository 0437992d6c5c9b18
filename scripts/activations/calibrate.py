"""Resolve the hook points of a model, prove them, and fix the powers of two by which rows are stored."""

from moediff.job import job, model_and_texts

with job(snakemake, torch_threads=True) as log:
    from moediff.activations import caching
    from moediff.activations.cautions import cautions
    from moediff.config.activations import resolve_layer
    from moediff.core import artifact
    from moediff.hooks.points import Point

    params, wildcards = snakemake.params, snakemake.wildcards
    model, facts, texts = model_and_texts(snakemake)
    shard, kept = next(texts)
    points = {
        name: Point(hook, resolve_layer(layer, facts["layers"], wildcards.model))
        for name, (hook, layer) in params.reading["points"].items()
    }
    found = caching.calibrate(
        model,
        caching.Reading(points, params.reading["routing"]),
        shard,
        kept,
        params.across,
        params.reading["dtype"],
        params.reading["drop"]["massive_norm"],
    )
    made_by = artifact.made_by("activations", model=facts["digest"], reading=params.reading)
    artifact.write_json(snakemake.output[0], made_by | {"points": found})
    for name, measured in found.items():
        log.info("%s %s: %s", wildcards.model, name, measured)
    about = {"model": wildcards.model, "seed": wildcards.seed, "split": "first fit"}
    odd = {name: m["standing_out"] for name, m in found.items() if "standing_out" in m}
    for sentence in cautions(about | {"standing_out": odd}):
        log.warning("%s", sentence)
