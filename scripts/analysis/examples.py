"""The rows on which each feature fires strongest, with the text around them."""

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    from moediff.activations.rows import AlignedRows
    from moediff.analysis import evaluation, example_files, examples
    from moediff.core import artifact
    from moediff.core.device import pick_device
    from moediff.dictionaries.dictionary import Dictionary

    params = snakemake.params
    rows = AlignedRows.of(snakemake.input.validation, params.points)
    dictionary, facts = Dictionary.load(snakemake.input.dictionary)
    evaluation.check_models(rows, facts, snakemake.input.dictionary)
    tokenizer, digest = examples.read_tokenizer(snakemake.input.tokenizer)
    examples.check_tokenizer(rows, digest, snakemake.input.tokenizer)
    device = pick_device(snakemake.config["device"])
    batch = facts["recipe"]["batch"]
    table = examples.feature_examples(dictionary, rows, tokenizer, batch, device)
    made_by = artifact.made_by("examples", origins=rows.origins)
    example_files.write(snakemake.output[0], table, made_by)
    log.info("%d examples of %d features", len(table), table["feature"].n_unique())
