"""Draw how well each method names what is planted in one kind of model alone."""

from _job import job

with job(snakemake):
    from moediff import artifact, drawing, plots

    table = artifact.read_parquet(snakemake.input[0])
    drawing.save(plots.planted_chart(table, snakemake.params.plots), snakemake.output)
