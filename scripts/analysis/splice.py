"""The loss of each source's model with a dictionary's reconstruction in place of its activations."""

from moediff.job import fit_of, job

with job(snakemake, torch_threads=True) as log:
    import polars as pl

    from moediff.analysis import splicing
    from moediff.analysis.classes import CLASSES
    from moediff.core import artifact
    from moediff.core.bootstrap import LEAST_GROUPS
    from moediff.dictionaries.dictionary import Dictionary
    from moediff.job import sides_and_texts

    params, wildcards = snakemake.params, snakemake.wildcards
    dictionary, facts = Dictionary.load(snakemake.input.dictionary)
    sides, texts = sides_and_texts(snakemake, facts)
    deleted = {}
    if len(sides) == 2:
        classes = artifact.read_parquet(snakemake.input.features, ["class"])["class"].to_numpy()
        deleted = {
            name: classes == name for name in CLASSES if name != "dead" and (classes == name).any()
        }
    found = splicing.splice(
        sides,
        texts,
        dictionary,
        params.across,
        params.sequences,
        params.batch,
        params.frozen,
        deleted,
        groups=LEAST_GROUPS,
    ).table
    table = pl.DataFrame([fit_of(wildcards)]).join(found, how="cross")
    made_by = artifact.made_by("splicing", origins=facts["origins"], sequences=params.sequences)
    artifact.write_parquet(snakemake.output[0], table, made_by)
    whole = found.filter((pl.col("domain") == splicing.ALL) & (pl.col("kind") == splicing.SPLICED))
    for row in whole.iter_rows(named=True):
        log.info("%s, routing %s: cross-entropy %.4f, recovered %s of zero and %s of mean ablation",
                 row["source"], row["routing"], row["cross_entropy"], row["recovered_zero"],
                 row["recovered_mean"])  # fmt: skip
