"""How well the kinds of a panel divide its models by what they spend explained variance on."""

from moediff.job import fit_of, job

with job(snakemake) as log:
    from moediff.analysis import differential, kinds
    from moediff.core import artifact

    params, wildcards = snakemake.params, snakemake.wildcards
    names = list(params.sources)
    table = artifact.read_parquet(
        snakemake.input.explained, [f"explained_{name}" for name in names]
    )
    explained = table.to_numpy()
    found = kinds.graded_usage(explained, names, params.kinds)
    features, found["catalogue"], found["by_domain"] = differential.NOTHING, [], []
    if found["unknown"] is None:
        used = kinds.ordered_usage(explained, names, params.kinds)
        features = differential.differential(used, len(next(iter(params.kinds.values()))))
        found["catalogue"] = differential.catalogue(features, used, params.kinds)
        top = artifact.read_parquet(snakemake.input.of_domains, ["top_domain"])["top_domain"]
        found["by_domain"] = kinds.by_domain(used, params.kinds, top.to_list())
    similarities = artifact.read_parquet(snakemake.input.similarity)
    found["without_dictionary"] = kinds.graded_rows(similarities, params.kinds)
    facts = artifact.made_by("kinds") | {**fit_of(wildcards), "kinds": dict(params.kinds)}
    artifact.write_json(snakemake.output.kinds, facts | found)
    artifact.write_parquet(snakemake.output.features, features, facts)
    if found["unknown"]:
        log.warning("%s/%s: %s", wildcards.comparison, wildcards.recipe, found["unknown"])
    for row in found.get("judged", []):
        if row["statistic"] in ("r2", "total_variation"):
            log.info("%s/%s: %s %.4f, largest of %d other splits %.4f, p %.4f",
                     wildcards.comparison, wildcards.recipe, row["statistic"], row["observed"],
                     row["others"], row["largest_other"], row["p"])  # fmt: skip
