"""How the experts of one MoE are used by text to choose on, all of it and each domain: what scores are made
of."""

from moediff.job import job, moe_runs, open_model

with job(snakemake, torch_threads=True):
    from moediff.core import artifact
    from moediff.experts import pruning

    model, facts = open_model(snakemake)
    runs, domains = moe_runs(snakemake, model, snakemake.input.tokens, "experts measured")
    table = pruning.usage_table(pruning.measured(runs, snakemake.params.renormalise, domains))
    made_by = artifact.made_by("prune", model=facts["digest"])
    artifact.write_parquet(snakemake.output[0], table, made_by)
