"""Choose the peak learning rate of a sweep: the lowest cross-entropy on unseen text."""

from moediff.job import job

with job(snakemake) as log:
    from moediff.core import artifact
    from moediff.core.errors import UserError

    trials = [artifact.read_json(path) for path in snakemake.input]
    ended = [trial for trial in trials if trial["cross_entropy"] is not None]
    if not ended:
        raise UserError(
            f"models.{snakemake.wildcards.model}: the loss was no longer finite at any rate of "
            "training.peak_lr; add lower ones"
        )
    best = min(ended, key=lambda trial: trial["cross_entropy"])["peak_lr"]
    # The rate alone: a trial more that does not win leaves this file, and so the models, as they are.
    artifact.write_json(snakemake.output[0], artifact.made_by("models") | {"peak_lr": best})
    log.info("%s: peak learning rate %g", snakemake.wildcards.model, best)
