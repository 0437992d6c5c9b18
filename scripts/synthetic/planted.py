"""Score the methods of attribution on worlds of known truth; a world that is done is not done again."""

from moediff.job import job, state_folder

with job(snakemake, torch_threads=True) as log:
    import shutil

    from moediff.core import artifact, checkpoint
    from moediff.synthetic import grid, methods, scoring
    from moediff.synthetic.world import World

    params = snakemake.params
    settings = params.settings
    recipes = methods.recipes(params.recipes["default"], params.recipes["paper"], settings)
    sizes = {key: settings[key] for key in settings if key not in ("base", "factors", "seeds")}
    cells, known, rows = grid.cells(settings), {}, []
    worlds = len({artifact.digest(cell["world"], cell["seed"]) for cell in cells})
    for cell in cells:
        about = [cell["world"], cell["seed"]]
        key = artifact.digest(*about)
        if key not in known:
            state = state_folder(snakemake, "planted", *about, sizes, recipes, params.version)
            done = state / "scores.json"
            scored = checkpoint.finished(done)
            if scored is None:
                truth = grid.made(cell["world"], settings, cell["seed"])
                world = World(truth, settings["rows"], recipes, cell["seed"], state / "world")
                artifact.write_json(done, {"rows": grid.scores(world)})
                shutil.rmtree(state / "world")
                scored = artifact.read_json(done)
            known[key] = scored["rows"]
            log.info("world %d of %d: %s %s, seed %d", len(known), worlds, cell["factor"],
                     cell["level"], cell["seed"])  # fmt: skip
        rows += [{**cell, **row} for row in known[key]]
    found = grid.table(rows)
    best = grid.chosen(found)
    made_by = artifact.made_by("planted", settings=dict(settings), near=scoring.NEAR)
    levels = {
        name: grid.by_level(found, {row["method"]: row[name] for row in best})
        for name in ("in_use", "chosen")
    }
    artifact.write_parquet(snakemake.output.table, found, made_by)
    artifact.write_json(snakemake.output.summary, made_by | {"methods": best, "levels": levels})
    for row in best:
        log.info("%s: threshold %s, F1 %.3f on the seeds for scoring", row["method"],
                 row["chosen"], row["scored"]["f1"])  # fmt: skip
