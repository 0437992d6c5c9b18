"""Gather what every panel found into panel.json."""

from moediff.job import job, of_fits

with job(snakemake) as log:
    from moediff.analysis.over_seeds import exclusive_numbers, over_seeds
    from moediff.core import artifact

    kept = ("comparison", "member", "recipe", "seed", "kinds", "live", "features_by_users",
            "early", "end", "own_domains", "text_groups", "groups", "judged")  # fmt: skip
    if not snakemake.input:
        log.info(
            "no comparison is a panel, all: [A, B] with two seeds of each or more: nothing to gather"
        )
    rows = [{key: found[key] for key in kept} for found in of_fits(snakemake.input)]
    told = {"panels": rows, "over_seeds": over_seeds(rows, exclusive_numbers)}
    artifact.write_json(snakemake.output[0], artifact.made_by("panel") | told)
