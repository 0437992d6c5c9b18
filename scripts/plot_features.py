"""Draw the features of a dictionary over two models: relative norms, with their null, density, scaling."""

from _job import job

with job(snakemake):
    import polars as pl

    from moediff import artifact, drawing, feature_plots

    wanted = ["class", "relative_norm", "density", "nu_error", "nu_reconstruction"]
    size, bounds = snakemake.params.plots, tuple(snakemake.params.bounds)

    def table(path):
        """A dictionary's features under the name of the one that is drawn."""
        name = drawing.dictionary_label(*snakemake.params.dictionary)
        return artifact.read_parquet(path, wanted).with_columns(pl.lit(name).alias("dictionary"))

    features = table(snakemake.input.features[0])
    null = (
        pl.concat([table(path) for path in snakemake.input.null]) if snakemake.input.null else None
    )
    norms = feature_plots.relative_norm_chart(features, bounds, size, null)
    drawing.save(norms, snakemake.output.norms)
    drawing.save(feature_plots.density_chart(features, size), snakemake.output.density)
    drawing.save(feature_plots.nu_chart(features, size), snakemake.output.scaling)
