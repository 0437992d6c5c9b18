"""The share of each feature's pre-activation that every expert of the layer wrote, at mlp_out."""

from moediff.job import job

with job(snakemake, torch_threads=True):
    from moediff.activations.rows import AlignedRows
    from moediff.analysis import evaluation, reruns
    from moediff.core import artifact
    from moediff.core.device import pick_device
    from moediff.corpus.token_shards import read_token_shard
    from moediff.dictionaries.dictionary import Dictionary
    from moediff.experts import attribution
    from moediff.models import loading

    params, name = snakemake.params, snakemake.wildcards.source
    device = pick_device(snakemake.config["device"])
    rows = AlignedRows.of(snakemake.input.validation, params.points, params.views)
    dictionary, facts = Dictionary.load(snakemake.input.dictionary)
    evaluation.check_models(rows, facts, snakemake.input.dictionary)
    source = list(params.sources).index(name)
    model, _ = loading.open_manifest(snakemake.input.model, device, params.device_map)
    tokens = read_token_shard(snakemake.input.tokens)
    again = reruns.Rerun(model, tokens, params.across, params.sequences, params.batch)
    table = attribution.written(dictionary, rows, source, again, device)
    made_by = artifact.made_by("written", origins=rows.origins, source=name)
    artifact.write_parquet(snakemake.output[0], table, made_by)
