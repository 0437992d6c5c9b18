"""Fit one dictionary, or several over the same rows."""

from moediff.job import job, state_folder

with job(snakemake, torch_threads=True) as log:
    from moediff.activations.rows import AlignedRows
    from moediff.core import artifact
    from moediff.core.device import pick_device
    from moediff.dictionaries import fitting

    params = snakemake.params
    rows = AlignedRows.of(snakemake.input, params.points, params.views)
    device = pick_device(snakemake.config["device"])
    outputs = iter(snakemake.output)
    jobs, facts = {}, {}
    for wanted in params.fits:
        name, seed = wanted["name"], wanted["seed"]
        known = {
            "sources": list(params.sources),
            "origins": rows.origins,
            "rows": rows.digest,
            "recipe": dict(wanted["recipe"]),
            "seed": seed,
        }
        state = state_folder(snakemake, "dictionary", name, known, params.version, device.type)
        made = fitting.Job(f"{name}, seed {seed}", wanted["recipe"], seed, state)
        jobs[made.name] = made, *(next(outputs) for _ in range(3))
        facts[made.name] = artifact.made_by("dictionaries", **known)
    for made, fitted in fitting.fit_all(rows, [j for j, *_ in jobs.values()], device):
        _, dictionary_path, early_path, history_path = jobs[made.name]
        fitted.dictionary.save(dictionary_path, facts[made.name])
        fitted.early.save(early_path, facts[made.name])
        artifact.write_parquet(history_path, fitted.history, facts[made.name])
        last = fitted.history.row(-1, named=True)
        log.info("%s: fve %.4f in training, %.1f %% dead",
                 made.name, last["fve"], 100 * last["dead_share"])  # fmt: skip
