"""What a run will take, by rates measured on one small shard of made tokens."""

from pathlib import Path

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    from moediff.core import artifact
    from moediff.core.device import pick_device
    from moediff.report import budget

    device = pick_device(snakemake.config["device"])
    # Where results lie decides no rate, and is no parameter; but globs of rows leave that folder out.
    config = {**snakemake.params.config, "results": snakemake.config["results"]}
    found = budget.estimate(config, device)
    keep = snakemake.config["activations"]["keep"]
    found["disk"] = budget.disk(found["stages"], Path(snakemake.config["results"]), keep)
    artifact.write_json(snakemake.output[0], artifact.made_by("budget") | found)
    for stage in found["stages"]:
        hours = "time not known" if stage["hours"] is None else f"{stage['hours']} hours"
        log.info("%s %s: %s tokens or rows, %s, %s GB", stage["stage"], stage["name"],
                 f"{stage['amount']:,}", hours, stage["gigabytes"])  # fmt: skip
    log.info("in all: %.2f hours, %.2f GB", found["hours"], found["gigabytes"])
    if found["disk"]["warning"]:
        log.warning("disk: %s", found["disk"]["warning"])
