"""Store one file of external activations as an activation shard."""

from moediff.job import job

with job(snakemake) as log:
    from moediff.activations import external
    from moediff.core import artifact

    params = snakemake.params
    count = external.convert(
        params.path,
        params.array,
        params.domains,
        params.dtype,
        params.chunk_rows,
        artifact.read_json(snakemake.input.measured),
        snakemake.output[0],
        artifact.made_by("activations"),
    )
    log.info("%s: %d rows", snakemake.output[0], count)
