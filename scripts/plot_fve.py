"""Draw the variance that dictionaries explain: each beside its baselines, and all against their L0."""

from _job import job

with job(snakemake):
    import polars as pl

    from moediff import artifact, drawing, plots

    rows = pl.DataFrame(artifact.read_json(snakemake.input[0])["rows"])
    size = snakemake.params.plots
    pooled = rows.filter((pl.col("source") == "pooled") & (pl.col("mode") == "threshold"))
    # Of each comparison and recipe the first seeds: the others differ by a line's width.
    first = pooled.unique(["comparison", "recipe"], keep="first", maintain_order=True)
    drawing.save(plots.fve_chart(first, size), snakemake.output.bars)
    same = pooled.filter(pl.col("member") == snakemake.params.member)
    drawing.save(plots.frontier_chart(same, size), snakemake.output.frontier)
