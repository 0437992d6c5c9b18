"""What all models of one kind use and none of the other, against every other labelling."""

from moediff.job import fit_of, job, open_fit

with job(snakemake, torch_threads=True) as log:
    import numpy as np
    import polars as pl

    from moediff.analysis import deletion, panel
    from moediff.core import artifact
    from moediff.core.bootstrap import LEAST_GROUPS
    from moediff.dictionaries.dictionary import Dictionary, in_float64

    params, wildcards = snakemake.params, snakemake.wildcards
    names = list(params.sources)
    rows, dictionary, recipe, device = open_fit(snakemake)
    dictionary = in_float64(dictionary, device)
    batch = recipe["batch"]
    features = artifact.read_parquet(snakemake.input.features, ["class", "top_domain"])
    alive = (features["class"] != "dead").to_numpy()
    alone = deletion.deleted_alone(dictionary, rows, batch, device)
    used = panel.users(alone, alive, params.floor)
    first = len(next(iter(params.kinds.values())))
    groups = panel.group(used, first)
    early, _ = Dictionary.load(snakemake.input.early)
    then = deletion.deleted_alone(early, rows, batch, device)  # 0 where a feature never fires
    early_groups = panel.group(panel.users(then, np.ones(len(then), bool), params.floor), first)
    together = deletion.deleted_together(
        dictionary, rows, groups.group_of, len(groups.sets), batch, device
    )
    found = panel.panel_rows(groups, together, names)
    own = [groups.group_of == number for number in panel.own_groups(groups, first, len(names))]
    units, lost, held = deletion.deleted_by_group(dictionary, rows, own, batch, device)
    if units.size() < LEAST_GROUPS:
        log.warning("%d groups of validation documents: no interval over fewer than %d", units.size(),
                    LEAST_GROUPS)  # fmt: skip
    intervals = panel.text_intervals(lost, held, units, params.kinds)
    judged = panel.judge(found, params.kinds, intervals)
    domains = panel.own_domains(used, alone.clip(0).sum(1), features["top_domain"].to_list(), first)
    made_by = artifact.made_by("panel", floor=params.floor, origins=rows.origins)
    table = pl.DataFrame(
        {"feature": range(len(used))}
        | {f"explained_{name}": alone[:, s] for s, name in enumerate(names)}
        | {f"used_{name}": used[:, s] for s, name in enumerate(names)}
    )
    artifact.write_parquet(snakemake.output.explained, table, made_by)
    artifact.write_json(
        snakemake.output.panel,
        made_by
        | {
            **fit_of(wildcards),
            "kinds": dict(params.kinds),
            "live": int(alive.sum()),
            "text_groups": units.counts(rows.domains),
            "features_by_users": panel.by_users(used),
            "early": panel.counts(early_groups, params.kinds),
            "end": panel.counts(groups, params.kinds),
            "own_domains": dict(zip(params.kinds, domains, strict=True)),
            "groups": found,
            "judged": judged,
        },
    )
    (headline,) = (r for r in judged if r["kind"] == panel.EITHER and r["statistic"] == "share")
    log.info("%s/%s: share of variance of features of one kind %.4f, largest of %d other splits %.4f; "
             "%d groups of documents", wildcards.comparison, wildcards.recipe, headline["observed"],
             headline["others"], headline["largest_other"], units.size())  # fmt: skip
