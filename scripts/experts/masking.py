"""Firings that each feature loses when the expert it goes with is masked, against another expert."""

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    import polars as pl

    from moediff.activations.rows import AlignedRows
    from moediff.analysis import evaluation, reruns
    from moediff.core import artifact
    from moediff.core.device import pick_device
    from moediff.corpus.token_shards import read_token_shard
    from moediff.dictionaries.dictionary import Dictionary, in_float64
    from moediff.experts import masking
    from moediff.experts.affinity import NONE
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
    best = artifact.read_parquet(snakemake.input.affinity, ["layer", "expert"])
    dictionary = in_float64(dictionary, device)
    found = []
    for (layer,), part in best.group_by("layer", maintain_order=True):
        own = part["expert"].fill_null(NONE).to_numpy()
        lost = masking.masked_firing(dictionary, rows, source, again, layer, own, device)
        found.append(lost.with_columns(pl.lit(layer).alias("layer")))
        log.info("layer %d: features lose %s of their firings with their expert, %s with another",
                 layer, lost["lost"].mean(), lost["lost_other"].mean())  # fmt: skip
    made_by = artifact.made_by("masked", origins=rows.origins, source=name)
    artifact.write_parquet(snakemake.output[0], pl.concat(found), made_by)
