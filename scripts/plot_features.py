"""Draw relative norms and densities of the features of every two-source dictionary."""

from _job import job

with job(snakemake):
    import polars as pl

    from moediff import artifact, plots

    wanted = ["class", "relative_norm", "density"]
    tables = []
    for path in snakemake.input:
        comparison, member, recipe, seed = path.split("/")[-5:-1]
        name = plots.dictionary_label(comparison, member, recipe, seed.removeprefix("seed-"))
        table = artifact.read_parquet(path, wanted)
        tables.append(table.with_columns(pl.lit(name).alias("dictionary")))
    features = pl.concat(tables)
    size, bounds = snakemake.params.plots, tuple(snakemake.params.bounds)
    plots.save(plots.relative_norm_chart(features, bounds, size), snakemake.output.norms)
    plots.save(plots.density_chart(features, size), snakemake.output.density)
