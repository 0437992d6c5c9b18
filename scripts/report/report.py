"""Gather numbers and plots into one self-contained page."""

from pathlib import Path

from moediff.job import job

with job(snakemake):
    from statistics import mean

    import polars as pl

    from moediff.analysis import controls, example_files
    from moediff.config.base import ROW_SPLITS
    from moediff.config.rows import row_patterns
    from moediff.core import artifact
    from moediff.report import browser, labels, page
    from moediff.training import history

    titles = {
        "training": "Training",
        "fve": "Variance explained",
        "relative-norm": "Relative decoder norm",
        "frontier": "Variance explained against L0",
        "classes": "Classes, beside the error rates of their rule",
        "density": "Density by class",
        "scaling": "Latent scaling",
        "domains": "Loss with reconstructions in place, by domain",
        "affinity": "Experts and features, within token id",
        "panel": "Features of one kind of model alone, under true and other labels",
    }
    ngrams = [row for path in snakemake.input.ngrams for row in artifact.read_json(path)["rows"]]
    manifests = {
        path.split("/")[-3]: artifact.read_json(path) for path in snakemake.input.manifests
    }
    ends: dict[str, list[dict[str, float]]] = {}
    for path in snakemake.input.histories:
        ends.setdefault(path.split("/")[-3], []).append(history.final_losses(history.read(path)))
    losses = {
        model: {domain: mean(end[domain] for end in found) for domain in found[0]}
        for model, found in ends.items()
    }
    counts = {model: facts["parameters"] for model, facts in manifests.items()}
    levels: dict[str, dict[str, float]] = {}
    for row in ngrams:
        levels.setdefault(row["model"], {})[row["domain"]] = row["cross_entropy"]
    metrics = [artifact.read_json(path) for path in snakemake.input.metrics]
    called = ("comparison", "member", "recipe", "seed")

    def dictionary_of(found):
        return labels.dictionary_label(*(found[key] for key in called))

    names = [(found, dictionary_of(found)) for found in metrics]
    language = {
        "Models: parameters": [
            {"model": model, **found}
            for model, found in counts.items()
        ],
        "Validation cross-entropy (nats a token)": [
            {"model": model, **found} for model, found in {**losses, **levels}.items()
        ],
    }  # fmt: skip
    foreign = {
        "Rows of other code": [
            {"model": model, "split": split, "array": rows["array"],
             "read from": ", ".join(row_patterns(rows, split))}
            for model, rows in snakemake.params.rows.items() for split in ROW_SPLITS
        ],
    }  # fmt: skip
    kept = {
        (about["model"], about["seed"], about["split"]): about
        for found in metrics for about in found["rows"]
    }  # fmt: skip
    counted = artifact.read_json(snakemake.input.classes)
    rates = {(row["recipe"], row["control"]): row["exclusive"] for row in counted["error_rates"]}
    classes = [
        {"dictionary": name, "k": found["k"], "features": found["features"], **found["classes"],
         "exclusive share": controls.exclusive_share(found["classes"]),
         **{f"of {control}": rates.get((found["recipe"], control)) for control in controls.CONTROLS}}
        for found, name in names if len(found["sources"]) == 2
    ]  # fmt: skip
    shares: dict[tuple[str, str], dict[str, float]] = {}
    for row in counted["rows"]:
        if row["class"] == "dead":
            continue
        for source in row["sources"]:
            share = row["shares"][source]
            shares.setdefault((dictionary_of(row), source), {})[row["class"]] = share
    panels = artifact.read_json(snakemake.input.panels)["panels"]
    judged = [
        {"dictionary": dictionary_of(found), **{key: row.get(key) for key in (
            "kind", "statistic", "observed", "interval", "largest_other", "mean_other", "others", "p")}}
        for found in panels for row in found["judged"]
    ]  # fmt: skip
    domains = [
        {"dictionary": dictionary_of(found), "kind": kind, "domain": domain, "features": count,
         "share of what they explain": own["explained"][domain]}
        for found in panels for kind, own in found["own_domains"].items()
        for domain, count in own["features"].items()
    ]  # fmt: skip
    study = artifact.read_json(snakemake.input.claims)
    claims = [
        {"claim": row["statement"], "verdict": row["verdict"], "primary": "yes" if row["primary"] else "",
         **{key: row[key] for key in (
             "estimate", "interval", "reference", "minimum_effect", "p_holm")},
         "reason": "; ".join(
             part for part in row["reason"].split("; ") if part not in study["withheld"])}
        for row in study["claims"]
    ]  # fmt: skip
    columns = {  # A need not be an MoE here
        "recipe": "recipe", "A": "A", "B": "B", "pairs": "pairs", "least firings": "firings",
        "fve": "fve_pooled", "A-only share": "moe_only_feature_share",
        "B-only share": "dense_only_feature_share",
        "log2 A-only / B-only": "log2_moe_only_over_dense_only",
        "log10 density A-only / common": "density_moe_only_over_common",
        "log10 density common / B-only": "density_common_over_dense_only",
        "exclusive variance": "exclusive_variance",
    }  # fmt: skip
    sensitivity = [
        {name: row[key] for name, key in columns.items()} for row in study["sensitivity"]
    ]
    drawn = {
        titles[Path(path).stem]: page.figure(Path(path).read_text(encoding="utf-8"))
        for path in snakemake.input.plots
    }
    tables = {
        "Claims, fixed before the study ran": claims,
        "The panel: features of one kind of model alone, against all other labels": judged,
        "Domains of the features of one kind alone": domains,
        "Every analysis: metrics of pairs by recipe and models, without verdicts": sensitivity,
        "Features by class, beside what controls of known answer show": classes,
        "Share of each source's variance that goes with a class": [
            {"dictionary": name, "source": source, **found}
            for (name, source), found in shares.items()
        ],
        "Fraction of validation variance explained": [
            {"dictionary": name, **{key: row[key] for key in (
                "source", "mode", "fve", "baseline_pca", "baseline_mean", "k", "l0", "dead_share",
                "firings_per_feature")}}
            for found, name in names for row in found["fve"]
        ],
        **(language if manifests else {}),
        **(foreign if snakemake.params.rows else {}),
        "Rows kept and left out": page.row_table(list(kept.values())),
    }  # fmt: skip
    sections = {name: page.table(rows) for name, rows in tables.items() if rows}
    moes = {model for model, found in counts.items() if found["total"] != found["active"]}
    sentences = page.verdicts(
        {model: losses[model]["all"] for model in snakemake.params.judged if model in losses},
        levels["trigram"]["all"] if levels else None,
        moes,
        snakemake.params.barely,
        list(snakemake.params.rows),
    )
    if study["withheld"]:
        sentences.append(
            ("warning", f"No claim has a verdict here: {'; '.join(study['withheld'])}.")
        )
    versions = artifact.made_by("plots")["versions"]

    def looked_at(features, texts):
        """A dictionary to look through; the first is the pair, with all that is known of it."""
        *names, seed = Path(features).parts[-5:-1]
        label = labels.dictionary_label(*names, seed.removeprefix("seed-"))
        table, experts = artifact.read_parquet(features), None
        if features == snakemake.input.features[0]:
            for path in snakemake.input.recurs:
                recurs = artifact.read_parquet(path)
                others = pl.selectors.starts_with("recurs_of_")
                # Without another seed there is nothing to recur in, which is no 0.
                compared = [name for name in recurs.select(others).columns if recurs[name].max()]
                shown = [name.replace("recurs_of_", "recurs_") for name in compared]
                table = table.join(recurs.select("feature", *shown), on="feature")
            for path in snakemake.input.experts:
                experts = artifact.read_parquet(path).select(
                    "feature", pl.lit(Path(path).parts[-2]).alias("source"), "layer", "expert",
                    pl.col("corrected").alias("information"),
                )  # fmt: skip
        return browser.Browsed(label, table, example_files.read(texts), experts)

    looked = map(looked_at, snakemake.input.features, snakemake.input.examples)
    if snakemake.input.features:
        sections["Features: search, sort, read"] = browser.browser(list(looked))
    first = next(iter(sections), None)
    shown = {first: sections.pop(first)} if first else {}
    artifact.write_text(
        snakemake.output[0], page.page(sentences, shown | drawn | sections, versions)
    )
