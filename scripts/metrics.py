"""Measure one dictionary on the validation rows, beside its baselines."""

from _job import fit_of, job

with job(snakemake, torch_threads=True) as log:
    from moediff import artifact, devices, evaluation, features, scaling
    from moediff.dictionary import Dictionary
    from moediff.store import AlignedRows

    params, wildcards = snakemake.params, snakemake.wildcards
    names = list(params.sources)
    rows = AlignedRows.of(snakemake.input.validation, params.points, params.views)
    dictionary, facts = Dictionary.load(snakemake.input.dictionary)
    evaluation.check_models(rows, facts, snakemake.input.dictionary)
    recipe = facts["recipe"]
    device = devices.pick_device(snakemake.config["device"])
    baseline = evaluation.Baseline.load(snakemake.input.components)

    def described(dictionary):
        """What it is on the validation rows, and one row a feature."""
        measured = evaluation.measure(dictionary, baseline, rows, names, recipe, device)
        return measured, features.feature_table(
            dictionary,
            measured,
            names,
            rows.domains,
            params.features["dead_below"],
            tuple(params.features["bounds"]),
        )

    measured, table = described(dictionary)
    measured_early, table_early = described(Dictionary.load(snakemake.input.early)[0])
    if len(names) == 2:
        nu = scaling.latent_scaling(dictionary, rows, recipe["batch"], device)
        table = features.with_scaling(table, nu)
    classes = features.class_counts(table)
    about = {
        **fit_of(wildcards),
        "k": recipe["k"],
        "features": len(table),
    }
    made_by = artifact.made_by("metrics", features=dict(params.features), origins=rows.origins)
    artifact.write_parquet(snakemake.output.features, table, made_by)
    artifact.write_json(
        snakemake.output.metrics,
        made_by
        | {
            **about,
            "sources": names,
            "classes": classes,
            "conventions": features.conventions(table),
            "early": {
                "classes": features.class_counts(table_early),
                "fve": measured_early.fve["threshold", evaluation.POOLED],
            },
            "rows": [artifact.read_json(path)["about"] for path in snakemake.input.rows],
            "fve": evaluation.fve_rows(measured, names, classes["dead"], about),
        },
    )
    log.info("%s/%s: fve %.4f, classes %s", wildcards.comparison, wildcards.recipe,
             measured.fve["threshold", evaluation.POOLED], classes)  # fmt: skip
