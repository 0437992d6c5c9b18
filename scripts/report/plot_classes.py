"""Draw the shares of classes by comparison, with the error rates of the rule of classes."""

from moediff.job import job

with job(snakemake):
    import polars as pl

    from moediff.analysis import controls
    from moediff.core import artifact
    from moediff.report import theme
    from moediff.report.charts.features import classes_chart

    found = artifact.read_json(snakemake.input[0])
    recipe = snakemake.params.recipe
    rates = {
        row["control"]: row["exclusive"] for row in found["error_rates"] if row["recipe"] == recipe
    }
    missed = rates.get(controls.PERMUTED)
    rows = pl.DataFrame(
        {
            "comparison": row["comparison"],
            "class": row["class"],
            "features": row["count"],
            "false_exclusive": rates.get(controls.OTHER_SEED),
            "missed_exclusive": None if missed is None else 1 - missed,
        }
        for row in found["rows"]
        if row["recipe"] == recipe
    ).with_columns(pl.col("false_exclusive", "missed_exclusive").cast(pl.Float64))
    keys = ["comparison", "class", "false_exclusive", "missed_exclusive"]
    counts = rows.group_by(keys, maintain_order=True).agg(pl.col("features").sum())
    theme.save(classes_chart(counts, snakemake.params.plots), snakemake.output)
