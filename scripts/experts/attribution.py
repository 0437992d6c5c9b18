"""The share of each feature's pre-activation that every expert of the layer wrote, at mlp_out."""

from moediff.job import job, open_fit, open_rerun

with job(snakemake, torch_threads=True):
    from moediff.core import artifact
    from moediff.experts import attribution

    name = snakemake.wildcards.source
    rows, dictionary, _, device = open_fit(snakemake)
    source = list(snakemake.params.sources).index(name)
    again = open_rerun(snakemake, device)
    table = attribution.written(dictionary, rows, source, again, device)
    made_by = artifact.made_by("written", origins=rows.origins, source=name)
    artifact.write_parquet(snakemake.output[0], table, made_by)
