"""Draw the training curves with the n-gram levels."""

from moediff.job import job

with job(snakemake):
    import polars as pl

    from moediff.core import artifact
    from moediff.report import theme
    from moediff.report.charts.training import training_chart
    from moediff.training import history

    curves = []
    for path in snakemake.input.histories:
        model, seed = path.split("/")[-3], path.split("/")[-2].removeprefix("seed-")
        curve = history.learning_curve(history.read(path))
        curves.append(curve.with_columns(model=pl.lit(model), seed=pl.lit(seed)))
    ngrams = pl.DataFrame(artifact.read_json(snakemake.input.ngrams)["rows"])
    chart = training_chart(
        pl.concat(curves), ngrams.filter(pl.col("domain") == "all"), snakemake.params.plots
    )
    theme.save(chart, snakemake.output)
