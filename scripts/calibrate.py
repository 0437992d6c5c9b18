"""Resolve a hook point and fix the power of two by which its rows are stored."""

from _job import job

with job(snakemake, torch_threads=True) as log:
    from moediff import artifact, capture, models
    from moediff.config import resolve_layer
    from moediff.tokens import read_token_shard, read_vocabulary

    params, wildcards = snakemake.params, snakemake.wildcards
    model, facts = models.open_manifest(
        snakemake.input.model[0], models.pick_device(snakemake.config["device"])
    )
    hook = params.hook
    layer = resolve_layer(hook["layer"], facts["layers"], wildcards.model)
    found = capture.calibrate(
        model,
        hook["hook"],
        layer,
        read_token_shard(snakemake.input.tokens),
        read_vocabulary(snakemake.input.vocabulary).special,
        hook["drop"],
        params.across,
        hook["dtype"],
    )
    made_by = artifact.made_by("activations", model=facts["digest"], hook=hook)
    artifact.write_json(snakemake.output[0], made_by | {"layer": layer, **found})
    log.info("%s.%s layer %d: %s", wildcards.model, hook["hook"], layer, found)
