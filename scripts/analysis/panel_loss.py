"""What goes of the loss with features of one kind of model, against every other labelling."""

from moediff.job import fit_of, job

with job(snakemake, torch_threads=True) as log:
    from moediff.analysis import panel, panel_loss, splicing
    from moediff.core import artifact
    from moediff.core.bootstrap import LEAST_GROUPS
    from moediff.dictionaries.dictionary import Dictionary
    from moediff.job import sides_and_texts

    params, wildcards = snakemake.params, snakemake.wildcards
    names = list(params.sources)
    dictionary, facts = Dictionary.load(snakemake.input.dictionary)
    used = artifact.read_parquet(snakemake.input.explained, [f"used_{name}" for name in names])
    groups = panel.group(used.to_numpy(), len(next(iter(params.kinds.values()))))
    deleted, within = panel_loss.deletions(groups)
    sides, texts = sides_and_texts(snakemake, facts)
    losses = splicing.splice(
        sides,
        texts,
        dictionary,
        params.across,
        params.sequences,
        params.batch,
        frozen=False,
        deleted=deleted,
        within=within,
        by_group=panel_loss.own_deletions(groups, params.kinds),
        groups=LEAST_GROUPS,
    )
    found = panel_loss.loss_rows(losses.table, groups, names)
    intervals = panel_loss.loss_intervals(losses, groups, params.kinds)
    judged = panel_loss.judge_loss(found, params.kinds, intervals)
    made_by = artifact.made_by("panel_loss", origins=facts["origins"], sequences=params.sequences)
    artifact.write_json(
        snakemake.output[0],
        made_by
        | {
            **fit_of(wildcards),
            "kinds": dict(params.kinds),
            "text_groups": panel_loss.text_units(losses).counts(),
            "losses": panel_loss.source_losses(losses.table, names),
            "groups": found,
            "judged": judged,
        },
    )
    for row in judged:
        log.info("%s: share of the loss %.4f, largest of %d other splits %.4f, p %.4f",
                 row["kind"], row["observed"], row["others"], row["largest_other"], row["p"])  # fmt: skip
    if not judged:
        log.warning("the reconstruction recovers nothing of some model's loss: no group is judged")
