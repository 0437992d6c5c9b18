"""What the study says of every claim that was fixed before it ran."""

from moediff.job import job

with job(snakemake) as log:
    from pathlib import Path

    from moediff.claims import assembly, fixing
    from moediff.core import artifact

    params, primary = snakemake.params, snakemake.params.claims["primary"]
    files = {name: list(paths) for name, paths in snakemake.input.items() if name != "classes"}
    evidence = assembly.gather(primary, **files, classes=snakemake.input.classes)
    judged = assembly.judged(
        params.claims, evidence, params.analysis, params.whole, params.penalties
    )
    digest, results = params.claims["digest"], Path(snakemake.config["results"])
    told = {"claims_digest": digest, "exploratory": fixing.exploratory(results, digest)}
    artifact.write_json(snakemake.output[0], artifact.made_by("claims") | judged | told)
    if told["exploratory"]:
        log.warning("Verdicts are exploratory: %s", told["exploratory"])
    for row in judged["claims"]:
        log.info("%s: %s (%s)", row["id"], row["verdict"], row["reason"])
