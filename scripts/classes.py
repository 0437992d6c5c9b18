"""Gather counts and shares by class of every two-source dictionary into classes.json."""

from _job import job

with job(snakemake):
    from moediff import artifact

    rows = [row for path in snakemake.input for row in artifact.read_json(path)["classes"]]
    artifact.write_json(snakemake.output[0], artifact.made_by("deletion") | {"rows": rows})
