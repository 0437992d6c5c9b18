"""What a run will take, by rates measured for a moment on made data."""

from pathlib import Path

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    from moediff.core import artifact
    from moediff.core.device import pick_device
    from moediff.report.budget import table

    found = table.estimate(
        snakemake.config, pick_device(snakemake.config["device"]), snakemake.params.primary
    )
    keep = snakemake.config["activations"]["keep"]
    found["disk"] = table.disk(found["stages"], Path(snakemake.config["results"]), keep)
    artifact.write_json(snakemake.output[0], artifact.made_by("budget") | found)
    for stage in found["stages"]:
        hours = "time not known" if stage["hours"] is None else f"{stage['hours']} hours"
        size = "size not known" if stage["gigabytes"] is None else f"{stage['gigabytes']} GB"
        log.info(
            "%s %s: %s, %s, %s", stage["stage"], stage["name"], f"{stage['amount']:,}", hours, size
        )
    log.info("in all: %.2f hours, %.2f GB", found["hours"], found["gigabytes"])
    if any(found["unknown"].values()):
        log.warning("not in these sums: the hours of %d stages and the size of %d, which are not known",
                    found["unknown"]["hours"], found["unknown"]["gigabytes"])  # fmt: skip
    if found["disk"]["warning"]:
        log.warning("disk: %s", found["disk"]["warning"])
