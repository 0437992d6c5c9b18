"""Gather numbers and plots into one self-contained page."""

from pathlib import Path

from _job import job

with job(snakemake):
    from statistics import mean

    from moediff import artifact, page, plots, training
    from moediff.config import ROW_SPLITS, row_patterns

    titles = {
        "training": "Training",
        "fve": "Variance explained",
        "relative-norm": "Relative decoder norm",
        "density": "Density by class",
        "panel": "Features of one kind of model alone, under true and other labels",
    }
    ngrams = [row for path in snakemake.input.ngrams for row in artifact.read_json(path)["rows"]]
    manifests = {
        path.split("/")[-3]: artifact.read_json(path) for path in snakemake.input.manifests
    }
    ends: dict[str, list[dict[str, float]]] = {}
    for path in snakemake.input.histories:
        ends.setdefault(path.split("/")[-3], []).append(
            training.final_losses(artifact.read_parquet(path))
        )
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
        return plots.dictionary_label(*(found[key] for key in called))

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
    classes = [
        {"dictionary": dictionary_of(row), "class": row["class"], "features": row["count"],
         **{side: row["shares"][name] for side, name in zip("AB", row["sources"], strict=True)}}
        for path in snakemake.input.deletion for row in artifact.read_json(path)["classes"]
        if row["count"]
    ]  # fmt: skip
    judged = [
        {"dictionary": dictionary_of(found), **row}
        for found in map(artifact.read_json, snakemake.input.panels) for row in found["judged"]
    ]  # fmt: skip
    claims = [
        {"claim": row["statement"], **{key: row[key] for key in (
            "estimate", "reference", "minimum_effect", "p_holm", "verdict", "reason")}}
        for row in artifact.read_json(snakemake.input.claims)["claims"]
    ]  # fmt: skip
    tables = {
        "Claims, fixed before the study ran": claims,
        **(language if manifests else {}),
        **(foreign if snakemake.params.rows else {}),
        "Rows kept and left out": page.row_table(list(kept.values())),
        "Fraction of validation variance explained": [
            {"dictionary": name, **{key: row[key] for key in (
                "source", "mode", "fve", "baseline_pca", "baseline_mean", "k", "l0", "dead_share",
                "firings_per_feature")}}
            for found, name in names for row in found["fve"]
        ],
        "Features by class (A is the first source, B the second)": [
            {"dictionary": name, **found["classes"]} for found, name in names
            if len(found["sources"]) == 2
        ],
        **({"Share of each source's variance that goes with a class": classes} if classes else {}),
        **({"The panel: features of one kind of model alone, against all other labels": judged}
           if judged else {}),
    }  # fmt: skip
    moes = {model for model, found in counts.items() if found["total"] != found["active"]}
    sentences = page.verdicts(
        {model: found["all"] for model, found in losses.items()},
        levels["trigram"]["all"] if levels else None,
        moes,
        list(snakemake.params.rows),
    )
    drawn = {
        titles[Path(path).stem]: Path(path).read_text(encoding="utf-8")
        for path in snakemake.input.plots
    }
    versions = artifact.made_by("plots")["versions"]
    artifact.write_text(snakemake.output[0], page.page(sentences, tables, drawn, versions))
