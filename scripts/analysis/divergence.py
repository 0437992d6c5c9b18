"""How far the next-token predictions of two models lie apart on the same text."""

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    import itertools

    import polars as pl

    from moediff.analysis import divergence
    from moediff.analysis.reruns import Text
    from moediff.analysis.sides import open_models, read_shards
    from moediff.core import artifact
    from moediff.core.device import pick_device

    files, params, config = snakemake.input, snakemake.params, snakemake.config
    table, described = pl.DataFrame(schema=divergence.COLUMNS), []
    # Whether two tokenizers of checkpoints are one is known only now, and before the models are opened.
    if all(itertools.starmap(divergence.same_tokens, read_shards(files.tokens, 2))):
        maps = [config["models"][model].get("device_map") for model in params.models]
        opened = open_models(files.models, maps, pick_device(config["device"]))
        models, described = zip(*opened, strict=True)
        texts = (Text(first) for first, _ in read_shards(files.tokens, 2))
        table = divergence.divergence(models, texts, params.across, params.sequences, params.batch)
    else:
        log.warning("%s and %s read the text by different tokenizers: no divergence of their predictions",
                    *params.models)  # fmt: skip
    made_by = artifact.made_by(
        "divergence", models=[facts["digest"] for facts in described], sequences=params.sequences
    )
    artifact.write_parquet(snakemake.output[0], table, made_by)
    for row in table.iter_rows(named=True):
        log.info("%s: KL %.4f and %.4f nats over %d tokens, %.1f %% with the same most probable token",
                 row["domain"], row["kl_first_second"], row["kl_second_first"], row["tokens"],
                 100 * row["top1_agreement"])  # fmt: skip
