"""Train one language model, from scratch or from the weights that it begins with, by one rank or more."""

from moediff.job import job, state_root

with job(snakemake, torch_threads=True):
    from moediff.core import artifact
    from moediff.core.ranks import together
    from moediff.training import task

    found, written, params = snakemake.input, snakemake.output, snakemake.params
    seed, resources = int(snakemake.wildcards.seed), snakemake.resources
    best = found.rate[0] if found.get("rate") else None
    rate = artifact.read_json(best)["peak_lr"] if best else params.training["peak_lr"]
    whole = task.Task(
        name=f"{snakemake.wildcards.model}.{seed}", seed=seed, training=params.training,
        architecture=params.architecture, peak_lr=rate, tokens=list(found.train),
        validation=list(found.validation), vocabulary=str(found.vocabulary), across=params.across,
        init=found.init[0] if found.get("init") else None, device=snakemake.config["device"],
        state=str(state_root(snakemake)), version=params.version,
        weights=str(written.weights), history=str(written.history), manifest=str(written.manifest),
        keep=list(params.get("keep", [])), kept=list(written.get("kept", [])),
        sharded=bool(resources.get("sharded", 0)),
    )  # fmt: skip
    together(
        resources.get("ranks", 1), task.run, whole,
        launcher=resources.get("mpi"), folder=state_root(snakemake),
    )  # fmt: skip
