"""Draw what firing tells of experts, by class of feature, with the dense model's own as control."""

from moediff.job import job

with job(snakemake):
    import polars as pl

    from moediff.core import artifact
    from moediff.report import theme
    from moediff.report.charts.experts import affinity_chart

    # The MoE is the first source, the dense model the second.
    names = {"A-only": "MoE-only", "B-only": "dense-only"}
    classes = artifact.read_parquet(snakemake.input.features[0], ["feature", "class"]).with_columns(
        pl.col("class").replace(names)
    )
    table = artifact.read_parquet(snakemake.input.affinity[0], ["feature", "layer", "corrected"])
    chart = affinity_chart(table.join(classes, on="feature"), snakemake.params.plots)
    theme.save(chart, snakemake.output)
