"""Find a checkpoint on disk or on the Hub, and describe it."""

from _job import job

with job(snakemake, torch_threads=True) as log:
    from moediff import artifact, models
    from moediff.tokens import read_vocabulary

    settings = snakemake.params.settings
    folder = models.fetch(settings["load"], settings["revision"])
    model = models.load(folder, settings["dtype"])
    if settings["tokenizer"] == "corpus":
        vocabulary = read_vocabulary(snakemake.input.vocabulary)
        models.check_vocabulary(folder, model, vocabulary, settings["load"])
    models.check_context(model, snakemake.params.length, settings["load"])
    made_by = artifact.made_by("models", load=settings["load"], revision=settings["revision"])
    models.write_manifest(
        snakemake.output.manifest, model, folder, str(folder), settings["dtype"], made_by
    )
    log.info("%s: %s", snakemake.wildcards.model, models.count_parameters(model))
