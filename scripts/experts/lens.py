"""What the heaviest experts of each layer of one MoE say by themselves, against controls."""

from moediff.job import job, moe_runs, open_model

with job(snakemake, torch_threads=True):
    from moediff.core import artifact
    from moediff.experts import lens

    model, facts = open_model(snakemake)
    runs, domains = moe_runs(snakemake, model, snakemake.input.tokens, "expert lens")
    table = lens.expert_lens(runs, domains, snakemake.params.positions)
    made_by = artifact.made_by("lens", model=facts["digest"])
    artifact.write_parquet(snakemake.output[0], table, made_by)
