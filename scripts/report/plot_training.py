"""Draw the training curves with the n-gram levels."""

from moediff.job import job

with job(snakemake):
    import polars as pl

    from moediff.core import artifact
    from moediff.report import theme
    from moediff.report.charts.training import training_chart

    tables = []
    for path in snakemake.input.histories:
        model, seed = path.split("/")[-3], path.split("/")[-2].removeprefix("seed-")
        table = artifact.read_parquet(path)
        tables.append(table.with_columns(pl.lit(model).alias("model"), pl.lit(seed).alias("seed")))
    overall = (pl.col("split") == "validation") & (pl.col("domain") == "all")
    history = pl.concat(tables).filter(overall)
    ngrams = pl.DataFrame(artifact.read_json(snakemake.input.ngrams)["rows"])
    chart = training_chart(
        history, ngrams.filter(pl.col("domain") == "all"), snakemake.params.plots
    )
    theme.save(chart, snakemake.output)
