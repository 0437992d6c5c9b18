"""What each feature's firing tells of the experts that a source's MoE chose, within token id."""

from moediff.job import job

with job(snakemake, torch_threads=True) as log:
    from moediff.activations.rows import AlignedRows
    from moediff.analysis import evaluation
    from moediff.core import artifact
    from moediff.core.device import pick_device
    from moediff.dictionaries.dictionary import Dictionary
    from moediff.experts import affinity

    params, name = snakemake.params, snakemake.wildcards.source
    rows = AlignedRows.of(snakemake.input.validation, params.points, params.views)
    dictionary, facts = Dictionary.load(snakemake.input.dictionary)
    evaluation.check_models(rows, facts, snakemake.input.dictionary)
    source = list(params.sources).index(name)
    layers = affinity.layers_of(rows, source)
    if not layers:  # of a loaded model nothing says so before its rows are there
        log.warning("%s: no routing is stored below its hook point; the table has no rows", name)
    device = pick_device(snakemake.config["device"])
    batch = facts["recipe"]["batch"]
    table = affinity.feature_affinity(dictionary, rows, source, layers, batch, device)
    made_by = artifact.made_by("affinity", origins=rows.origins, source=name)
    artifact.write_parquet(snakemake.output[0], table, made_by)
    for (layer,), part in table.group_by("layer", maintain_order=True):
        log.info("layer %d: %s features above z 1.96", layer, (part["z"] > 1.96).sum())
