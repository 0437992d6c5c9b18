"""Fix the width and the power of two by which the rows that other code wrote are stored."""

from _job import job

with job(snakemake) as log:
    from moediff import artifact, foreign

    params = snakemake.params
    found = foreign.measure(params.path, params.array, params.dtype)
    artifact.write_json(snakemake.output[0], artifact.made_by("activations") | found)
    log.info("%s: %s", snakemake.wildcards.model, found)
