"""Which experts each feature fires with, what it loses without them and, at mlp_out, which wrote it."""

from _job import job

with job(snakemake, torch_threads=True) as log:
    import polars as pl

    from moediff import affinity, artifact, evaluation, models
    from moediff.dictionary import Dictionary
    from moediff.errors import UserError
    from moediff.store import AlignedRows
    from moediff.tokens import read_token_shard

    params, output = snakemake.params, snakemake.output
    device = models.pick_device(snakemake.config["device"])
    rows = AlignedRows.of(snakemake.input.validation, params.points)
    dictionary, facts = Dictionary.load(snakemake.input.dictionary)
    evaluation.check_models(rows, facts, snakemake.input.dictionary)
    source = list(params.sources).index(params.source)
    layers = affinity.layers_of(rows, source)
    if not layers:
        raise UserError(
            f"{params.source}: no routing is stored below its hook point; take an MoE, and set "
            "activations.routing to used"
        )
    batch = facts["recipe"]["batch"]
    table = affinity.feature_affinity(dictionary, rows, source, layers, batch, device)
    model, _ = models.open_manifest(snakemake.input.model[0], device, params.device_map)
    tokens = read_token_shard(snakemake.input.tokens[0])
    again = affinity.Rerun(model, tokens, params.across, params.sequences, params.batch)
    masked = []
    for layer in layers:
        experts = table.filter(pl.col("layer") == layer)["expert"].fill_null(-1).to_numpy()
        found = affinity.masked_firing(dictionary, rows, source, again, layer, experts, device)
        masked.append(found.with_columns(pl.lit(layer).alias("layer")))
    made_by = artifact.made_by("affinity", origins=rows.origins, source=params.source)
    artifact.write_parquet(output.affinity, table, made_by)
    artifact.write_parquet(output.masked, pl.concat(masked), made_by)
    if "written" in output.keys():  # noqa: SIM118 - a rule asks for it at mlp_out alone
        wrote = affinity.written(dictionary, rows, source, again, device)
        artifact.write_parquet(output.written, wrote, made_by)
    for (layer,), part in table.group_by("layer", maintain_order=True):
        log.info("layer %d: %s features above z 1.96", layer, (part["z"] > 1.96).sum())
