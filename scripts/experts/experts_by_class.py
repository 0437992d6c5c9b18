"""What experts the features of each class have, from the affinity of one source's experts."""

from moediff.job import fit_of, job

with job(snakemake):
    from moediff.core import artifact
    from moediff.experts import by_class

    affinity = artifact.read_parquet(snakemake.input.affinity)
    classes = artifact.read_parquet(snakemake.input.features, ["feature", "class", "fired"])
    told = fit_of(snakemake.wildcards) | {"source": snakemake.wildcards.source}
    told["rows"] = by_class.experts_of_classes(affinity, classes)
    artifact.write_json(snakemake.output[0], artifact.made_by("experts") | told)
