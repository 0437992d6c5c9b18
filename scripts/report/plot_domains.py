"""Draw the loss of each source by domain, clean, with its reconstruction in place, and ablated."""

from moediff.job import job

with job(snakemake):
    from moediff.core import artifact
    from moediff.report import theme
    from moediff.report.charts.splicing import domains_chart

    rows = artifact.read_parquet(snakemake.input[0])
    theme.save(domains_chart(rows, snakemake.params.plots), snakemake.output)
