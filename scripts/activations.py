"""Cache the activations of one model on one token shard."""

from _job import job

with job(snakemake, torch_threads=True) as log:
    from moediff import artifact, capture, models
    from moediff.tokens import read_token_shard, read_vocabulary

    params, wildcards = snakemake.params, snakemake.wildcards
    model, facts = models.open_manifest(
        snakemake.input.model[0], models.pick_device(snakemake.config["device"])
    )
    hook = artifact.read_json(snakemake.input.hook)
    count = capture.cache(
        model,
        params.hook["hook"],
        hook["layer"],
        read_token_shard(snakemake.input.tokens),
        read_vocabulary(snakemake.input.vocabulary).special,
        params.hook["drop"],
        params.across,
        params.hook["dtype"],
        hook["exponent"],
        params.batch,
        params.chunk_rows,
        snakemake.output[0],
        artifact.made_by("activations", model=facts["digest"]),
        f"{wildcards.model}.{wildcards.seed} {wildcards.split} {wildcards.shard}",
    )
    log.info("%s: %d rows", snakemake.output[0], count)
