"""What the study says of every claim that was fixed before it ran."""

from _job import job

with job(snakemake) as log:
    from statistics import mean

    from moediff import artifact, claims, findings, training
    from moediff.evaluation import POOLED, THRESHOLD

    found, params = snakemake.input, snakemake.params
    wanted = claims.checked(params.claims)
    manifests = {
        path.split("/")[-3]: artifact.read_json(path)["parameters"] for path in found.manifests
    }
    kinds = {model for model, sizes in manifests.items() if sizes["total"] != sizes["active"]}
    columns = ["class", "density", "relative_norm", "decoder_cosine", "top_domain_share"]
    pairs, firings = [], {}
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
        pairs.append(findings.Pair(sources, row["fve"], table, exclusive))
        firings["/".join([row["member"], str(row["seed"])])] = row["firings_per_feature"]
    panels = [artifact.read_json(path) for path in found.panels]
    named = {source for pair in pairs for source in pair.models}
    named |= {source for one in panels for names in one["kinds"].values() for source in names}
    moes = {source for source in named if source.partition(".")[0] in kinds}
    measured = findings.pair_findings(pairs, moes) | findings.panel_findings(panels, moes)
    losses = {
        "/".join(path.split("/")[-3:-1]): training.final_losses(artifact.read_parquet(path))["all"]
        for path in found.histories
    }
    trigrams = [
        row["cross_entropy"]
        for path in found.ngrams
        for row in artifact.read_json(path)["rows"]
        if (row["model"], row["domain"]) == ("trigram", "all")
    ]
    # Counts after 75 % of fitting are not kept yet: no claim has a verdict before they are.
    withheld = claims.reasons_to_withhold(
        wanted["limits"], losses, trigrams[0] if trigrams else None, firings, {}
    )
    judged = claims.judge(wanted, measured, params.analysis, withheld)
    artifact.write_json(snakemake.output[0], artifact.made_by("claims") | judged)
    for row in judged["claims"]:
        log.info("%s: %s (%s)", row["id"], row["verdict"], row["reason"])
