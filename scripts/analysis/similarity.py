"""How alike the rows of each two sources are, with no dictionary between them."""

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    from moediff.activations.rows import AlignedRows
    from moediff.analysis import similarity
    from moediff.core import artifact

    params = snakemake.params
    rows = AlignedRows.of(snakemake.input.validation, params.points, params.views)
    table = similarity.similarities(*similarity.sample(rows), list(params.sources))
    made_by = artifact.made_by("similarity", origins=rows.origins)
    artifact.write_parquet(snakemake.output[0], table, made_by)
    for (measure,), part in table.group_by("measure", maintain_order=True):
        log.info("%s: calibrated %.4f to %.4f over %d pairs", measure, part["calibrated"].min(),
                 part["calibrated"].max(), len(part))  # fmt: skip
