"""Fit one dictionary, or several over the same rows, by one rank or more."""

from moediff.job import job, state_root

with job(snakemake, torch_threads=True):
    from moediff.core.ranks import together
    from moediff.dictionaries import task

    params, resources = snakemake.params, snakemake.resources
    whole = task.Task(
        rows=list(map(str, snakemake.input)), points=list(params.points), views=list(params.views),
        sources=list(params.sources), fits=list(params.fits), outputs=list(map(str, snakemake.output)),
        device=snakemake.config["device"],
        state=str(state_root(snakemake)), version=params.version,
        split=bool(resources.get("split", 0)),
    )  # fmt: skip
    together(
        resources.get("ranks", 1), task.run, whole,
        launcher=resources.get("mpi"), folder=state_root(snakemake),
    )  # fmt: skip
