"""Principal components of the fit rows: the baseline of every dictionary on the same sources."""

from moediff.job import job

with job(snakemake, torch_threads=True):
    from moediff.activations.rows import AlignedRows
    from moediff.config.recipes import NONE
    from moediff.core import artifact
    from moediff.dictionaries.principal_components import principal_components

    names = snakemake.params.sources
    rows = AlignedRows.of(snakemake.input, snakemake.params.points, snakemake.params.views)
    normalise = snakemake.wildcards.normalised.removeprefix("-") or NONE
    found = principal_components(rows, normalise)
    artifact.write_tensors(
        snakemake.output[0],
        {"vectors": found.vectors, "variances": found.variances, "scale": found.scale},
        artifact.made_by("baselines", sources=names, origins=rows.origins)
        | ({} if normalise == NONE else {"normalise": normalise}),
    )
