"""Gather what it costs every MoE to do without some of its experts, into prune.json."""

from moediff.job import job, rows_of_moes

with job(snakemake) as log:
    from moediff.core import artifact

    rows = rows_of_moes(snakemake.input)
    artifact.write_json(snakemake.output[0], artifact.made_by("prune") | {"rows": rows})
    log.info("%d rows of %d MoEs", len(rows), len(snakemake.input))
