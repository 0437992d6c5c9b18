"""Find a checkpoint on disk or on the Hub, and describe it."""

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    from moediff.core import artifact
    from moediff.corpus.tokenizer import read_vocabulary
    from moediff.models import fetching, loading, parameters

    settings = snakemake.params.settings
    folder = fetching.fetch(settings["load"], settings["revision"])
    model = loading.load(folder, settings["dtype"])
    if settings["tokenizer"] == "corpus":
        vocabulary = read_vocabulary(snakemake.input.vocabulary)
        loading.check_vocabulary(folder, model, vocabulary, settings["load"])
    loading.check_context(model, snakemake.params.length, settings["load"])
    made_by = artifact.made_by("models", load=settings["load"], revision=settings["revision"])
    loading.write_manifest(
        snakemake.output.manifest, model, folder, str(folder), settings["dtype"], made_by
    )
    log.info("%s: %s", snakemake.wildcards.model, parameters.count_parameters(model))
