"""What a run will take, by rates measured for a moment on made data."""

from pathlib import Path

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    from tempfile import TemporaryDirectory

    from moediff.core import artifact
    from moediff.core.device import pick_device
    from moediff.report.budget import jobs, rates_text, table

    found = table.estimate(
        snakemake.config, pick_device(snakemake.config["device"]), snakemake.params.primary
    )
    keep = snakemake.config["activations"]["keep"]
    found["disk"] = table.disk(found["stages"], Path(snakemake.config["results"]), keep)
    with TemporaryDirectory(prefix="moediff-budget-") as folder:
        text = rates_text.measured(snakemake.config, Path(folder))
    found["plan"] = jobs.plan(snakemake.config, found["stages"], text, snakemake.params.places)
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
    for stage in found["plan"]["stages"]:
        log.info("%s: %d jobs of %d MB at most", stage["stage"], stage["jobs"], stage["memory_mb"])
    for name, place in found["plan"]["profiles"].items():
        log.info("profile %s, %d jobs at once: %.2f hours%s", name, place["jobs"], place["hours"],
                 " and what is not known" if found["plan"]["hours_not_known"] else "")  # fmt: skip
