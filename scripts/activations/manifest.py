"""Say what was kept of one model's rows of a split, what was left out and why."""

from moediff.job import job

with job(snakemake) as log:
    from moediff.activations.cautions import cautions
    from moediff.activations.shards import summary
    from moediff.core import artifact

    wildcards = snakemake.wildcards
    found = summary(snakemake.input)
    keys = ("rows", "tokens", "left_out", "share_left_out", "alignment")
    about = {"model": wildcards.model, "seed": int(wildcards.seed), "split": wildcards.split}
    about |= {key: found.pop(key) for key in keys}
    if "standing_out" in found:
        about["standing_out"] = found.pop("standing_out")
    artifact.write_json(
        snakemake.output[0], artifact.made_by("activations") | found | {"about": about}
    )
    for sentence in cautions(about):
        log.warning("%s", sentence)
    log.info("%s: %d rows, left out: %s", snakemake.output[0], about["rows"], about["left_out"])
