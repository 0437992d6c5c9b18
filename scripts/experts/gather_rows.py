"""Gather the tables of every MoE into one JSON file: the rows of each, with its model and seed."""

from moediff.job import job

with job(snakemake) as log:
    from moediff.config import layout
    from moediff.core import artifact

    rows = []
    for path in snakemake.input:
        place = layout.parse("moe", path)
        named = {"model": place["model"], "seed": int(place["seed"])}
        rows += [named | row for row in artifact.read_parquet(path).to_dicts()]
    made_by = artifact.made_by(snakemake.params.stage)
    artifact.write_json(snakemake.output[0], made_by | {"rows": rows})
    log.info("%d rows of %d models", len(rows), len(snakemake.input))
