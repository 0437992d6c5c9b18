"""What of each feature's firing is lost where the source's MoE does without some of its experts, and by
class."""

from moediff.job import fit_of, job, open_fit, open_rerun

with job(snakemake, torch_threads=True):
    from moediff.core import artifact
    from moediff.core.terms import ALL
    from moediff.experts import by_class, pruned_features, pruning

    found, params, name = snakemake.input, snakemake.params, snakemake.wildcards.source
    rows, dictionary, _, device = open_fit(snakemake)
    source = list(params.sources).index(name)
    again = open_rerun(snakemake, device)
    usage = pruning.usage_of(artifact.read_parquet(found.usage))[ALL]
    choice = pruning.Choice(*(params.prune[name] for name in ("scores", "keep", "protect")))
    table = pruned_features.pruned_features(dictionary, rows, source, again, usage, choice, device)
    made_by = artifact.made_by("prune", origins=rows.origins, source=name)
    artifact.write_parquet(snakemake.output.table, table, made_by)
    classes = artifact.read_parquet(found.features, ["feature", "class", "fired"])
    told = fit_of(snakemake.wildcards) | {"source": name}
    told["rows"] = by_class.lost_by_class(table, classes)
    artifact.write_json(snakemake.output.by_class, artifact.made_by("prune") | told)
