"""Fit one dictionary."""

from _job import job

with job(snakemake, torch_threads=True) as log:
    from moediff import artifact, checkpoint, fitting, models
    from moediff.activations import AlignedRows

    params, wildcards = snakemake.params, snakemake.wildcards
    rows = AlignedRows.of(snakemake.input, len(params.sources))
    device = models.pick_device(snakemake.config["device"])
    seed = int(wildcards.seed)
    facts = {
        "sources": list(params.sources),
        "origins": rows.origins,
        "rows": rows.digest,
        "recipe": dict(params.recipe),
        "seed": seed,
    }
    name = f"{wildcards.comparison}/{wildcards.member}/{wildcards.recipe}"
    state = checkpoint.state_folder(
        snakemake.config["results"],
        "dictionary",
        name,
        facts,
        params.version,
        device.type,
    )
    dictionary, history = fitting.fit(rows, params.recipe, seed, state, device, name)
    made_by = artifact.made_by("dictionaries", **facts)
    dictionary.save(snakemake.output.dictionary, made_by)
    artifact.write_parquet(snakemake.output.history, history, made_by)
    last = history.row(-1, named=True)
    log.info("%s: fve %.4f in training, %.1f %% dead", name, last["fve"], 100 * last["dead_share"])
