"""Gather what stored routing tells of every MoE into routing.json."""

from moediff.job import job

with job(snakemake) as log:
    from moediff.core import artifact

    lists = ("rows", "information", "overlap", "router")
    found = {name: [] for name in (*lists, "models")}
    for path in snakemake.input:
        record = artifact.read_json(path)
        named = {"model": record["model"], "seed": record["seed"]}
        for name in lists:
            found[name] += [named | row for row in record[name]]
        whole = ("experts", "used", "even_share", "signature")
        found["models"].append(named | {name: record[name] for name in whole})
    artifact.write_json(snakemake.output[0], artifact.made_by("routing") | found)
    log.info("%d MoEs", len(found["models"]))
