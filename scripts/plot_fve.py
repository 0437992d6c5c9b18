"""Draw the variance that each dictionary explains, beside its baselines."""

from _job import job

with job(snakemake):
    import polars as pl

    from moediff import artifact, plots

    rows = pl.DataFrame(artifact.read_json(snakemake.input[0])["rows"])
    pooled = rows.filter((pl.col("source") == "pooled") & (pl.col("mode") == "threshold"))
    plots.save(plots.fve_chart(pooled, snakemake.params.plots), snakemake.output)
