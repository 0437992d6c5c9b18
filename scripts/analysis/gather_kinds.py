"""Gather how well kinds divide the models of every panel, and the trends of doses, into kinds.json."""

from moediff.job import job, of_fits

with job(snakemake) as log:
    from moediff.analysis.over_seeds import graded_numbers, over_seeds
    from moediff.core import artifact

    place = ("comparison", "member", "recipe", "seed")
    about = ("format", "stage", "versions")  # of the files, not of the panels
    if not snakemake.input.kinds and not snakemake.input.trends:
        log.info(
            "no comparison is a panel, all: [A, B] with two seeds of each or more, nor has one a dose: "
            "nothing to gather"
        )
    least = {
        tuple(found[key] for key in place): found["least"]
        for found in of_fits(snakemake.input.detectable)
    }
    panels = of_fits(snakemake.input.kinds)
    rows = [
        {key: found[key] for key in found if key not in about}
        | {"detectable": least.get(tuple(found[key] for key in place), [])}
        for found in panels
    ]
    trends = [
        {key: found[key] for key in found if key not in about}
        for found in of_fits(snakemake.input.trends)
    ]
    told = {"panels": rows, "trends": trends, "over_seeds": over_seeds(rows, graded_numbers)}
    artifact.write_json(snakemake.output[0], artifact.made_by("kinds") | told)
