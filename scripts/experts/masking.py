"""Firings that each feature loses when the expert it goes with is masked, against another expert."""

from moediff.job import job, open_fit, open_rerun

with job(snakemake, torch_threads=True) as log:
    import polars as pl

    from moediff.core import artifact
    from moediff.dictionaries.dictionary import in_float64
    from moediff.experts import masking
    from moediff.experts.affinity import NONE

    name = snakemake.wildcards.source
    rows, dictionary, _, device = open_fit(snakemake)
    source = list(snakemake.params.sources).index(name)
    again = open_rerun(snakemake, device)
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
