"""Find a checkpoint on disk or on the Hub, and describe it."""

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    from pathlib import Path

    from moediff.core import artifact
    from moediff.corpus.tokenizer import read_vocabulary
    from moediff.models import fetching, loading, parameters, suitability

    settings = snakemake.params.settings
    name = settings["load"]
    folder = fetching.fetch(name, settings["revision"])
    model = loading.load(folder, settings["dtype"])
    if settings["tokenizer"] == "corpus":
        beside = Path(snakemake.input.vocabulary)
        tokenizer = beside.with_name("tokenizer.json")  # made together with it, by one job
        suitability.check_vocabulary(folder, model, read_vocabulary(beside), tokenizer, name)
    else:
        suitability.check_own_tokenizer(folder, model, name)
    suitability.check_context(model, snakemake.params.length, name)
    suitability.check_causal(model, name)
    made_by = artifact.made_by("models", load=name, revision=settings["revision"])
    if settings.get("begin_of_text"):  # not among the settings where it is false
        made_by["begin_of_text"] = suitability.begin_of_text(folder, model, name)
    loading.write_manifest(
        snakemake.output.manifest, model, folder, str(folder), settings["dtype"], made_by
    )
    log.info(
        "%s: %s",
        snakemake.wildcards.model,
        parameters.count_parameters(loading.plain(model)),
    )
