"""What each feature's firing tells of the experts that a source's MoE chose, within token id."""

from moediff.job import job, open_fit

with job(snakemake, torch_threads=True) as log:
    from pathlib import Path

    from moediff.core import artifact
    from moediff.experts import affinity

    name = snakemake.wildcards.source
    rows, dictionary, recipe, device = open_fit(snakemake)
    source = list(snakemake.params.sources).index(name)
    layers = affinity.layers_of(rows, source)
    if not layers:  # of a loaded model nothing says so before its rows are there
        log.warning("%s: no routing is stored below its hook point; the table has no rows", name)
    scratch, batch = Path(snakemake.output[0]).parent, recipe["batch"]
    table = affinity.feature_affinity(dictionary, rows, source, layers, batch, device, scratch)
    made_by = artifact.made_by("affinity", origins=rows.origins, source=name)
    artifact.write_parquet(snakemake.output[0], table, made_by)
    for (layer,), part in table.group_by("layer", maintain_order=True):
        log.info("layer %d: %s features above z 1.96", layer, (part["z"] > 1.96).sum())
