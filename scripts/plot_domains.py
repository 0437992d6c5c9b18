"""Draw the loss of each source by domain, clean, with its reconstruction in place, and ablated."""

from _job import job

with job(snakemake):
    from moediff import artifact, drawing, plots

    rows = artifact.read_parquet(snakemake.input[0])
    drawing.save(plots.domains_chart(rows, snakemake.params.plots), snakemake.output)
