"""Choose the peak learning rate of a sweep: the lowest cross-entropy on unseen text."""

from _job import job

with job(snakemake) as log:
    from moediff import artifact

    found = [artifact.read_json(path) for path in snakemake.input]
    trials = [{key: trial[key] for key in ("peak_lr", "cross_entropy")} for trial in found]
    best = min(trials, key=lambda trial: trial["cross_entropy"])
    artifact.write_json(
        snakemake.output[0],
        artifact.made_by("models") | {"peak_lr": best["peak_lr"], "trials": trials},
    )
    log.info("%s: peak learning rate %g", snakemake.wildcards.model, best["peak_lr"])
