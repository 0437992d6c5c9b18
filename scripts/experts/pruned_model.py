"""One MoE without some of its experts, as a plain checkpoint of transformers with its model card."""

from moediff.job import job, open_model

with job(snakemake) as log:
    from pathlib import Path

    from moediff.core import artifact
    from moediff.core.terms import ALL
    from moediff.experts import pruning
    from moediff.models import loading
    from moediff.models.families import top_k

    params, output, named = snakemake.params, snakemake.output, snakemake.wildcards
    usage = pruning.usage_of(artifact.read_parquet(snakemake.input.usage))[ALL]
    model, facts = open_model(snakemake)
    least = top_k(model) or 1
    gone = pruning.left_out(usage, named.score, float(named.keep), least, params.protect)
    smaller = pruning.pruned(model, gone)
    loading.save(smaller, Path(output.model).parent)
    costs = artifact.read_parquet(snakemake.input.costs)
    artifact.write_text(
        output.card, pruning.card(f"{named.model}.{named.seed}", named, gone, costs)
    )
    log.info(
        "%s of %s parameters are left",
        f"{smaller.num_parameters():,}",
        f"{model.num_parameters():,}",
    )
