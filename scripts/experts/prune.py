"""What it costs one MoE to do without some of its experts, by the score that chooses them."""

from moediff.job import job, moe_runs, open_model

with job(snakemake, torch_threads=True):
    from moediff.core import artifact
    from moediff.core.terms import ALL
    from moediff.experts import pruning

    found, params = snakemake.input, snakemake.params
    usage = pruning.usage_of(artifact.read_parquet(found.usage))
    if not params.prune["by_domain"]:
        usage = {ALL: usage[ALL]}
    choice = pruning.Choice(*(params.prune[name] for name in ("scores", "keep", "protect")))
    model, facts = open_model(snakemake)
    runs, domains = moe_runs(snakemake, model, found.tokens, "experts left out")
    table = pruning.prune_costs(usage, choice, runs, domains)
    made_by = artifact.made_by("prune", model=facts["digest"])
    artifact.write_parquet(snakemake.output[0], table, made_by)
