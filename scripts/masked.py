"""Firings that each feature loses when the expert it goes with is masked, against another expert."""

from _job import job

with job(snakemake, torch_threads=True) as log:
    import polars as pl

    from moediff import artifact, devices, evaluation, experts, models
    from moediff.affinity import NONE
    from moediff.dictionary import Dictionary
    from moediff.store import AlignedRows
    from moediff.tokens import read_token_shard

    params, name = snakemake.params, snakemake.wildcards.source
    device = devices.pick_device(snakemake.config["device"])
    rows = AlignedRows.of(snakemake.input.validation, params.points, params.views)
    dictionary, facts = Dictionary.load(snakemake.input.dictionary)
    evaluation.check_models(rows, facts, snakemake.input.dictionary)
    source = list(params.sources).index(name)
    model, _ = models.open_manifest(snakemake.input.model, device, params.device_map)
    tokens = read_token_shard(snakemake.input.tokens)
    again = experts.Rerun(model, tokens, params.across, params.sequences, params.batch)
    best = artifact.read_parquet(snakemake.input.affinity, ["layer", "expert"])
    found = []
    for (layer,), part in best.group_by("layer", maintain_order=True):
        own = part["expert"].fill_null(NONE).to_numpy()
        lost = experts.masked_firing(dictionary, rows, source, again, layer, own, device)
        found.append(lost.with_columns(pl.lit(layer).alias("layer")))
        log.info("layer %d: features lose %s of their firings with their expert, %s with another",
                 layer, lost["lost"].mean(), lost["lost_other"].mean())  # fmt: skip
    made_by = artifact.made_by("masked", origins=rows.origins, source=name)
    artifact.write_parquet(snakemake.output[0], pl.concat(found), made_by)
