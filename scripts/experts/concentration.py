"""How concentrated the routing of one MoE is, layer by layer and domain by domain, from stored
activations."""

from moediff.job import job

with job(snakemake) as log:
    import torch

    from moediff.core import artifact
    from moediff.experts import routing_record
    from moediff.models.families import expert_count, routers
    from moediff.models.loading import open_manifest

    found, wildcards = snakemake.input, snakemake.wildcards
    model, facts = open_manifest(found.model[0], torch.device("cpu"))
    weights = {layer: router.weight for layer, router in routers(model).items()}
    text = routing_record.read(found.validation, expert_count(model) or 0, snakemake.params.tokens)
    if not text.layers:
        log.warning("%s.%s: no routing is stored; the tables have no rows", *wildcards)
    told = routing_record.measured(text, weights, snakemake.params.shuffles)
    made_by = artifact.made_by("routing", model=facts["digest"])
    named = {"model": wildcards.model, "seed": int(wildcards.seed)}
    artifact.write_json(snakemake.output.record, made_by | named | told.record)
    for path, table in (
        (snakemake.output.shares, told.shares),
        (snakemake.output.pairs, told.pairs),
    ):
        artifact.write_parquet(path, table, made_by)
    for row in told.record["rows"]:
        if row["domain"] == routing_record.ALL:
            log.info("layer %d: the busiest expert is used by %.3f of tokens, even would be %.3f",
                     row["layer"], row["busiest_share"], told.record["even_share"])  # fmt: skip
