"""Say what was kept of one model's rows of a split, what was left out and why."""

from moediff.job import job

with job(snakemake) as log:
    from moediff.activations.shards import summary
    from moediff.core import artifact

    wildcards = snakemake.wildcards
    found = summary(snakemake.input)
    keys = ("rows", "tokens", "left_out", "share_left_out", "alignment")
    about = {"model": wildcards.model, "seed": int(wildcards.seed), "split": wildcards.split}
    about |= {key: found.pop(key) for key in keys}
    artifact.write_json(
        snakemake.output[0], artifact.made_by("activations") | found | {"about": about}
    )
    log.info("%s: %d rows, left out: %s", snakemake.output[0], about["rows"], about["left_out"])
