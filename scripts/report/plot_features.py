"""Draw the features of a dictionary over two models: relative norms, with their null, density, scaling."""

from moediff.job import job

with job(snakemake):
    import polars as pl

    from moediff.core import artifact
    from moediff.report import theme
    from moediff.report.charts.features import density_chart, nu_chart, relative_norm_chart

    wanted = ["class", "relative_norm", "density", "nu_error", "nu_reconstruction"]
    size, bounds = snakemake.params.plots, tuple(snakemake.params.bounds)

    def table(path):
        """A dictionary's features under the name of the one that is drawn."""
        name = theme.dictionary_label(*snakemake.params.dictionary)
        return artifact.read_parquet(path, wanted).with_columns(pl.lit(name).alias("dictionary"))

    features = table(snakemake.input.features[0])
    null = (
        pl.concat([table(path) for path in snakemake.input.null]) if snakemake.input.null else None
    )
    norms = relative_norm_chart(features, bounds, size, null)
    theme.save(norms, snakemake.output.norms)
    theme.save(density_chart(features, size), snakemake.output.density)
    theme.save(nu_chart(features, size), snakemake.output.scaling)
