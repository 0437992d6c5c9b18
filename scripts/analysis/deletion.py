"""The share of each source's variance that goes when a class of features is deleted."""

from moediff.job import fit_of, job, open_fit

with job(snakemake, torch_threads=True) as log:
    from moediff.analysis import deletion
    from moediff.analysis.classes import CLASSES, class_numbers
    from moediff.core import artifact

    names = list(snakemake.params.sources)
    rows, dictionary, recipe, device = open_fit(snakemake)
    classes = artifact.read_parquet(snakemake.input.features, ["class"])["class"].to_numpy()
    lost = deletion.deleted_together(
        dictionary, rows, class_numbers(classes), len(CLASSES), recipe["batch"], device
    )
    about = {
        **fit_of(snakemake.wildcards),
        **{key: recipe[key] for key in ("k", "features", "tied")},
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
