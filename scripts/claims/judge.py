"""What the study says of every claim that was fixed before it ran."""

from moediff.job import job

with job(snakemake) as log:
    from statistics import mean

    from moediff.analysis.measured import POOLED, THRESHOLD
    from moediff.claims import findings, judging
    from moediff.core import artifact
    from moediff.training import history

    found, params = snakemake.input, snakemake.params
    wanted = params.claims
    primary, penalties = wanted["primary"], wanted["penalties"]
    kinds = {primary["moe"], primary["dense"]}
    columns = ["class", "density", "relative_norm", "decoder_cosine", "top_domain_share"]
    pairs, firings, counts = [], {}, {}

    for metrics, features, deletion in zip(
        found.metrics, found.features, found.deletion, strict=True
    ):
        about = artifact.read_json(metrics)
        (row,) = (r for r in about["fve"] if (r["source"], r["mode"]) == (POOLED, THRESHOLD))
        shares = {part["class"]: part["shares"] for part in artifact.read_json(deletion)["classes"]}
        sources = tuple(about["sources"])
        own = zip((findings.A, findings.B), sources, strict=True)
        exclusive = mean(shares[name][source] for name, source in own)
        table = artifact.read_parquet(features, columns)
        early = about["early"]
        pair = findings.Pair(
            sources, row["recipe"], row["fve"], early["fve"], table, exclusive, row["rows"]
        )
        pairs.append(pair)
        if pair.recipe == primary["recipe"] and kinds.issuperset(pair.kinds):
            name = f"{row['member']}/{row['seed']}"
            firings[name] = row["firings_per_feature"]
            counts[name] = tuple(
                {kind: found_then["classes"][kind] for kind in findings.FREE_CLASSES}
                for found_then in (early, about)
            )

    panels, losses, others = (
        [artifact.read_json(path) for path in paths]
        for paths in (found.panels, found.panel_losses, found.known_panels)
    )
    for panel, metrics in zip(panels, found.panel_metrics, strict=True):
        (row, *_) = artifact.read_json(metrics)["fve"]
        name = f"{row['member']}/{row['seed']}"
        firings[name] = row["firings_per_feature"]
        counts[name] = panel["early"], panel["end"]

    def of(recipe):
        """The pairs of a recipe over the two models that the claims are about."""
        return [pair for pair in pairs if pair.recipe == recipe and kinds.issuperset(pair.kinds)]

    named = {source for pair in pairs for source in pair.models}
    named |= {source for one in panels for names in one["kinds"].values() for source in names}
    moes = {source for source in named if findings.model_of(source) == primary["moe"]}
    measured = findings.pair_findings(of(primary["recipe"]), moes)
    measured |= findings.penalty_findings(of(penalties["strong"]), of(penalties["weak"]), moes)
    sees = findings.sees_a_difference(others, params.whole, wanted["alpha"])
    measured |= findings.panel_findings(panels, moes, "variance", sees)
    measured |= findings.panel_findings(losses, moes, "loss", sees)
    for name in ("fve_gain_shared_penalty", "tied_cosine_lowest"):
        if name in measured and params.penalties:
            measured[name]["withheld"] = [params.penalties]
    ends = {
        "/".join(path.split("/")[-3:-1]): history.final_losses(artifact.read_parquet(path))["all"]
        for path in found.histories
        if path.split("/")[-3] in kinds
    }
    trigrams = [
        row["cross_entropy"]
        for path in found.ngrams
        for row in artifact.read_json(path)["rows"]
        if (row["model"], row["domain"]) == ("trigram", "all")
    ]
    withheld = judging.reasons_to_withhold(
        wanted["limits"], ends, trigrams[0] if trigrams else None, firings, counts,
        {row["control"]: row["exclusive"] for row in artifact.read_json(found.classes)["error_rates"]
         if row["recipe"] == primary["recipe"]},
    )  # fmt: skip
    judged = judging.judge(wanted, measured, params.analysis, withheld)
    judged["sensitivity"] = findings.sensitivity(pairs, wanted["limits"]["firings_per_feature"])
    artifact.write_json(snakemake.output[0], artifact.made_by("claims") | judged)
    for row in judged["claims"]:
        log.info("%s: %s (%s)", row["id"], row["verdict"], row["reason"])
