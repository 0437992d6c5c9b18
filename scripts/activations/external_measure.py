"""Fix the width and the power of two by which external activations are stored."""

from moediff.job import job

with job(snakemake) as log:
    from moediff.activations import external
    from moediff.core import artifact

    params = snakemake.params
    found = external.measure(params.path, params.array, params.dtype)
    artifact.write_json(snakemake.output[0], artifact.made_by("activations") | found)
    log.info("%s: %s", snakemake.wildcards.model, found)
