"""Read the documents of one domain and assign each to a split."""

from moediff.job import job

with job(snakemake) as log:
    import glob

    from moediff.core import artifact
    from moediff.corpus import sources

    params = snakemake.params
    name = snakemake.wildcards.domain
    settings = dict(params.settings)
    if "paths" in settings:  # the files that were planned: a glob could match what was made since
        settings["paths"] = [glob.escape(path) for path in snakemake.input]
    count = size = 0

    def parts():
        global count, size
        for table in sources.documents(name, settings, params.splits, params.most_bytes):
            count += len(table)
            size += table["text"].str.len_bytes().sum()
            yield table

    provenance = artifact.made_by("documents", domain=dict(params.settings), splits=params.splits)
    artifact.write_parquet_parts(snakemake.output[0], parts(), provenance)
    log.info("domain %s: %d documents, %.1f MB of text", name, count, size / 1e6)
