"""How far the rows of one model of a pair lie from those of the other."""

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    from pathlib import Path

    from moediff.activations.rows import AlignedRows
    from moediff.analysis import moved
    from moediff.core import artifact

    params = snakemake.params
    rows = AlignedRows.of(snakemake.input.validation, params.points, params.views)
    table = moved.moved(rows, 4096, Path(snakemake.output[0]).parent)
    made_by = artifact.made_by("moved", origins=rows.origins)
    artifact.write_parquet(snakemake.output[0], table, made_by)
    for row in table.iter_rows(named=True):
        log.info("%s: %s rows, median distance %.4f", row["domain"], row["rows"], row["median"])
    if table.is_empty():
        log.warning("widths %s differ: no distance of rows", rows.widths)
