"""In how many other SAEs of its models each feature of a crosscoder comes again."""

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    from moediff.activations.rows import AlignedRows
    from moediff.analysis import evaluation, matching
    from moediff.core import artifact
    from moediff.core.device import pick_device
    from moediff.dictionaries.dictionary import Dictionary

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
    device = pick_device(snakemake.config["device"])
    found = matching.best_matches(crosscoder, saes, rows, recipe["batch"], device)
    matches = dict(zip(names, found, strict=True))
    table = matching.recurrence(matches, params.sae_models, own)
    made_by = artifact.made_by("recurrence", origins=rows.origins, match=matching.MATCH)
    artifact.write_parquet(snakemake.output[0], table, made_by)
    for model in params.sae_models:
        mean, of = table[f"recurs_{model}"].mean(), table[f"recurs_of_{model}"][0]
        log.info("%s: a feature recurs in %.2f of %d other SAEs", model, mean or 0, of)
