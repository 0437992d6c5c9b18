"""Write one dictionary in the layout of another library, or as a folder for the Hub."""

from pathlib import Path

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    from moediff.dictionaries.dictionary import Dictionary
    from moediff.exchange import crosscoders, hub, saelens

    source, folder = snakemake.input.dictionary, Path(snakemake.output[0]).parent
    if snakemake.params.layout == "hub":
        hub.save_folder(source, folder, snakemake.input.metrics)
    else:
        library = {"saelens": saelens, "crosscoder": crosscoders}[snakemake.params.layout]
        dictionary, facts = Dictionary.load(source)
        library.save(dictionary, folder, facts)
    log.info("%s: written from %s", folder, source)
