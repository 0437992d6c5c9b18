"""Gather what fewer experts cost every MoE, into fewer_experts.json."""

from moediff.job import job, rows_of_moes

with job(snakemake) as log:
    from moediff.core import artifact

    rows = rows_of_moes(snakemake.input)
    artifact.write_json(snakemake.output[0], artifact.made_by("fewer_experts") | {"rows": rows})
    log.info("%d rows of %d MoEs", len(rows), len(snakemake.input))
