"""Whether models move apart with the dose that their comparison names."""

from moediff.job import fit_of, job, open_fit

with job(snakemake, torch_threads=True) as log:
    from moediff.analysis import deletion, trend
    from moediff.core import artifact

    params = snakemake.params
    rows, dictionary, recipe, device = open_fit(snakemake)
    explained = deletion.deleted_alone(dictionary, rows, recipe["batch"], device)
    found = trend.trend(explained, list(params.sources), params.doses, params.kinds)
    about = {"doses": dict(params.doses), "kinds": dict(params.kinds)}
    facts = artifact.made_by("trend", origins=rows.origins) | fit_of(snakemake.wildcards) | about
    artifact.write_json(snakemake.output[0], facts | found)
    if found["unknown"]:
        log.warning("%s", found["unknown"])
    else:
        judged = found["judged"]
        log.info("share along the dose %.4f, p %.4f", judged["observed"], judged["p"])
