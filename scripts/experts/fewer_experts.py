"""What it costs one MoE to use fewer experts a token, or others."""

from moediff.job import job, moe_runs, open_model

with job(snakemake, torch_threads=True):
    from moediff.core import artifact
    from moediff.experts import ablation

    model, facts = open_model(snakemake)
    runs, domains = moe_runs(snakemake, model, snakemake.input.tokens, "fewer experts")
    table = ablation.fewer_experts(runs, snakemake.params.each, domains)
    made_by = artifact.made_by("fewer_experts", model=facts["digest"])
    artifact.write_parquet(snakemake.output[0], table, made_by)
