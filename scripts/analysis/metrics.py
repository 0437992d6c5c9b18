"""Measure one dictionary on the validation rows, beside its baselines."""

from moediff.job import fit_of, job, open_fit

with job(snakemake, torch_threads=True) as log:
    import numpy as np

    from moediff.activations.cautions import cautions
    from moediff.analysis import evaluation, features, latent_scaling
    from moediff.analysis.classes import class_counts, conventions
    from moediff.analysis.measured import LEAST_FIRINGS, POOLED, THRESHOLD, fve_rows
    from moediff.core import artifact
    from moediff.dictionaries import principal_components
    from moediff.dictionaries.dictionary import Dictionary, in_float64

    params, wildcards = snakemake.params, snakemake.wildcards
    names = list(params.sources)
    rows, dictionary, recipe, device = open_fit(snakemake)
    dictionary = in_float64(dictionary, device)
    baseline = principal_components.Baseline.load(snakemake.input.components, names)

    def described(dictionary, baseline):
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

    measured, table = described(dictionary, baseline)
    early = in_float64(Dictionary.load(snakemake.input.early)[0], device)
    measured_early, table_early = described(early, None)
    if len(names) == 2:
        nu = latent_scaling.latent_scaling(dictionary, rows, recipe["batch"], device)
        log.info("latent scaling covers %d of %d live features: the others fire on fewer than %d rows, or "
                 "nothing of their owner goes with them", np.isfinite(nu["nu_error"]).sum(),
                 (nu["fired"] > 0).sum(), LEAST_FIRINGS)  # fmt: skip
        table = features.with_scaling(table, nu)
    classes = class_counts(table)
    about = {
        **fit_of(wildcards),
        "k": recipe["k"],
        "features": len(table),
    }
    abouts = [artifact.read_json(path)["about"] for path in snakemake.input.rows]
    made_by = artifact.made_by("metrics", features=dict(params.features), origins=rows.origins)
    artifact.write_parquet(snakemake.output.features, table, made_by)
    artifact.write_json(
        snakemake.output.metrics,
        made_by
        | {
            **about,
            "sources": names,
            "classes": classes,
            "conventions": conventions(table),
            "early": {
                "classes": class_counts(table_early),
                "fve": measured_early.fve[THRESHOLD, POOLED],
            },
            "rows": abouts,
            "fve": fve_rows(measured, names, classes["dead"], about),
        },
    )
    fve = ", ".join(f"{mode} {measured.fve[mode, POOLED]:.4f}" for mode in measured.l0)
    log.info("%s/%s: fve by %s; classes %s", wildcards.comparison, wildcards.recipe, fve, classes)
    if measured.massive_rows:
        log.warning("%d validation rows of massive norm are left in: fve %.4f with and %s without them",
                    measured.massive_rows, measured.fve[THRESHOLD, POOLED],
                    measured.fve_without[THRESHOLD, POOLED])  # fmt: skip
    for about in abouts:
        for sentence in cautions(about):
            log.warning("%s", sentence)
