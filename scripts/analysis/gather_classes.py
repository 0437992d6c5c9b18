"""Gather counts and shares by class of every two-source dictionary into classes.json, with error rates."""

from moediff.job import job

with job(snakemake):
    from moediff.analysis import controls
    from moediff.core import artifact

    rows = [row for path in snakemake.input for row in artifact.read_json(path)["classes"]]
    found = {"rows": rows, "error_rates": controls.error_rates(rows)}
    artifact.write_json(snakemake.output[0], artifact.made_by("deletion") | found)
