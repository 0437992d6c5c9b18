"""In how many other SAEs of its models each feature of a crosscoder comes again."""

from _job import job

with job(snakemake, torch_threads=True) as log:
    from moediff import artifact, devices, evaluation, recurrence
    from moediff.dictionary import Dictionary
    from moediff.store import AlignedRows

    params, files = snakemake.params, snakemake.input
    own, names = list(params.sources), list(params.sae_sources)
    points = [*params.points, *params.sae_points]
    rows = AlignedRows.of([*files.validation, *files.sae_validation], points)

    def loaded(path, first, count):
        """A dictionary of `count` of the sources, and its recipe."""
        dictionary, facts = Dictionary.load(path)
        evaluation.check_models(rows, facts, path, slice(first, first + count))
        return dictionary, facts["recipe"]

    crosscoder, recipe = loaded(files.dictionary, 0, len(own))
    saes = [loaded(path, len(own) + n, 1)[0] for n, path in enumerate(files.saes)]
    device = devices.pick_device(snakemake.config["device"])
    found = recurrence.best_matches(crosscoder, saes, rows, recipe["batch"], device)
    matches = dict(zip(names, found, strict=True))
    table = recurrence.recurrence(matches, params.sae_models, own)
    made_by = artifact.made_by("recurrence", origins=rows.origins, match=recurrence.MATCH)
    artifact.write_parquet(snakemake.output[0], table, made_by)
    for model in params.sae_models:
        mean, of = table[f"recurs_{model}"].mean(), table[f"recurs_of_{model}"][0]
        log.info("%s: a feature recurs in %.2f of %d other SAEs", model, mean or 0, of)
