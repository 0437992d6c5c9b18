"""The rows on which each feature fires strongest, with the text around them."""

from moediff.job import job, open_fit

with job(snakemake, torch_threads=True) as log:
    from moediff.analysis import example_files, examples
    from moediff.core import artifact

    rows, dictionary, recipe, device = open_fit(snakemake)
    tokenizer, digest = examples.read_tokenizer(snakemake.input.tokenizer)
    examples.check_tokenizer(rows, digest, snakemake.input.tokenizer)
    table = examples.feature_examples(dictionary, rows, tokenizer, recipe["batch"], device)
    made_by = artifact.made_by("examples", origins=rows.origins)
    example_files.write(snakemake.output[0], table, made_by)
    log.info("%d examples of %d features", len(table), table["feature"].n_unique())
