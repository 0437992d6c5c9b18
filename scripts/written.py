"""The share of each feature's pre-activation that every expert of the layer wrote, at mlp_out."""

from _job import job

with job(snakemake, torch_threads=True):
    from moediff import artifact, devices, evaluation, experts, models
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
    table = experts.written(dictionary, rows, source, again, device)
    made_by = artifact.made_by("written", origins=rows.origins, source=name)
    artifact.write_parquet(snakemake.output[0], table, made_by)
