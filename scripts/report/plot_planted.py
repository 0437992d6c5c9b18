"""Draw how well each method names what is planted in one kind of model alone."""

from moediff.job import job

with job(snakemake):
    from moediff.core import artifact
    from moediff.report import theme
    from moediff.report.charts.synthetic import planted_chart

    table = artifact.read_parquet(snakemake.input[0])
    theme.save(planted_chart(table, snakemake.params.plots), snakemake.output)
