"""Draw the variance that dictionaries explain: each beside its baselines, and all against their L0."""

from moediff.job import job

with job(snakemake):
    import polars as pl

    from moediff.core import artifact
    from moediff.report import theme
    from moediff.report.charts.dictionaries import frontier_chart, fve_chart

    rows = pl.DataFrame(artifact.read_json(snakemake.input[0])["rows"])
    size = snakemake.params.plots
    pooled = rows.filter((pl.col("source") == "pooled") & (pl.col("mode") == "threshold"))
    # Of each comparison and recipe the first seeds: the others differ by a line's width.
    first = pooled.unique(["comparison", "recipe"], keep="first", maintain_order=True)
    theme.save(fve_chart(first, size), snakemake.output.bars)
    same = pooled.filter(pl.col("member") == snakemake.params.member)
    theme.save(frontier_chart(same, size), snakemake.output.frontier)
