"""How much of each source's variance is a linear function of each other source."""

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    import polars as pl

    from moediff.activations.rows import AlignedRows
    from moediff.analysis import linear_map
    from moediff.core import artifact

    params = snakemake.params
    names = list(params.sources)
    fit = AlignedRows.of(snakemake.input.fit, params.points, params.views)
    validation = AlignedRows.of(snakemake.input.validation, params.points, params.views)
    parts = [linear_map.gram(fit, 4096, half) for half in linear_map.halves(fit)]
    seen = linear_map.gram(validation, 4096)
    ends = [sum(fit.widths[: s + 1]) for s in range(len(names))]
    columns = {
        name: slice(end - width, end)
        for name, end, width in zip(names, ends, fit.widths, strict=True)
    }
    found = []
    for source in names:
        for target in names:
            if source != target:
                r2, alpha = linear_map.ridge_r2(*parts, seen, columns[source], columns[target])
                found.append((source, target, r2, alpha, validation.count))
                log.info("%s to %s: R2 %.4f at alpha %.1e", source, target, r2, alpha)
    table = pl.DataFrame(found, schema=["from", "to", "r2", "alpha", "rows"], orient="row")
    made_by = artifact.made_by("anchor", origins=validation.origins)
    artifact.write_parquet(snakemake.output[0], table, made_by)
