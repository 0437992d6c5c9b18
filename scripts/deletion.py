"""The share of each source's variance that goes when a class of features is deleted."""

from _job import fit_of, job

with job(snakemake, torch_threads=True) as log:
    from moediff import artifact, deletion, devices, evaluation, features
    from moediff.dictionary import Dictionary
    from moediff.store import AlignedRows

    params, wildcards = snakemake.params, snakemake.wildcards
    names = list(params.sources)
    rows = AlignedRows.of(snakemake.input.validation, params.points, params.views)
    dictionary, facts = Dictionary.load(snakemake.input.dictionary)
    evaluation.check_models(rows, facts, snakemake.input.dictionary)
    classes = artifact.read_parquet(snakemake.input.features, ["class"])["class"].to_numpy()
    lost = deletion.deleted_together(
        dictionary,
        rows,
        features.class_numbers(classes),
        len(features.CLASSES),
        facts["recipe"]["batch"],
        devices.pick_device(snakemake.config["device"]),
    )
    about = {
        **fit_of(wildcards),
        **{key: facts["recipe"][key] for key in ("k", "features", "tied")},
    }
    found = [
        {
            **about,
            "sources": names,
            "class": name,
            "count": int((classes == name).sum()),
            "shares": {source: float(lost[number, s]) for s, source in enumerate(names)},
        }
        for number, name in enumerate(features.CLASSES)
    ]
    made_by = artifact.made_by("deletion", origins=rows.origins)
    artifact.write_json(snakemake.output[0], made_by | {"classes": found})
    for row in found:
        log.info("%s: %d features, %s", row["class"], row["count"], row["shares"])
