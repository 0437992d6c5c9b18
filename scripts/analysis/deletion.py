"""The share of each source's variance that goes when a class of features is deleted."""

from moediff.job import fit_of, job

with job(snakemake, torch_threads=True) as log:
    from moediff.activations.rows import AlignedRows
    from moediff.analysis import deletion, evaluation
    from moediff.analysis.classes import CLASSES, class_numbers
    from moediff.core import artifact, device
    from moediff.dictionaries.dictionary import Dictionary

    params, wildcards = snakemake.params, snakemake.wildcards
    names = list(params.sources)
    rows = AlignedRows.of(snakemake.input.validation, params.points, params.views)
    dictionary, facts = Dictionary.load(snakemake.input.dictionary)
    evaluation.check_models(rows, facts, snakemake.input.dictionary)
    classes = artifact.read_parquet(snakemake.input.features, ["class"])["class"].to_numpy()
    lost = deletion.deleted_together(
        dictionary,
        rows,
        class_numbers(classes),
        len(CLASSES),
        facts["recipe"]["batch"],
        device.pick_device(snakemake.config["device"]),
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
        for number, name in enumerate(CLASSES)
    ]
    made_by = artifact.made_by("deletion", origins=rows.origins)
    artifact.write_json(snakemake.output[0], made_by | {"classes": found})
    for row in found:
        log.info("%s: %d features, %s", row["class"], row["count"], row["shares"])
