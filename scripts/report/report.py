"""Gather numbers and plots into one self-contained page."""

from moediff.job import job

with job(snakemake):
    from moediff.analysis import example_files
    from moediff.config import layout
    from moediff.core import artifact
    from moediff.report import (
        browser,
        compared,
        finding,
        labels,
        notes,
        page,
        sections,
        svg,
        tables,
    )
    from moediff.report.charts import CHARTS
    from moediff.report.row_cautions import row_warnings, rows_left_out
    from moediff.training import history

    files, params = snakemake.input, snakemake.params

    def model_of(path):
        return layout.parse("model", path)["model"]

    def folder_of(path):
        return layout.path("dictionary", **layout.parse("dictionary", path) | {"file": ""})

    # --- what the stages wrote ---
    ends = {}
    for path in files.histories:
        ends.setdefault(model_of(path), []).append(history.final_losses(history.read(path)))
    trained = tables.mean_losses(ends)
    levels = tables.ngram_levels(
        [row for path in files.ngrams for row in artifact.read_json(path)["rows"]]
    )
    parameters = {
        model_of(path): artifact.read_json(path)["parameters"] for path in files.manifests
    }
    claims, counted = artifact.read_json(files.claims), artifact.read_json(files.classes)
    judged = artifact.read_json(files.panels)
    panels = judged["panels"]
    graded = [artifact.read_json(path) for path in files.kinds]
    kinds, trends = (
        [one for found in graded for one in found[key]] for key in ("panels", "trends")
    )
    over_seeds = [row for found in (judged, *graded) for row in found["over_seeds"]]
    metrics = {folder_of(path): artifact.read_json(path) for path in files.metrics}
    features = {folder_of(path): artifact.read_parquet(path) for path in files.features}
    examples = {folder_of(path): example_files.read(path) for path in files.examples}
    splicing = [artifact.read_parquet(path) for path in files.splicing]
    moved = [artifact.read_parquet(path) for path in files.moved]
    divergence = [artifact.read_parquet(path) for path in files.divergence]
    recurs = [artifact.read_parquet(path) for path in files.recurs]
    experts = [
        browser.experts_told(artifact.read_parquet(path), layout.parse("experts", path)["source"])
        for path in files.experts
    ]
    svgs = {
        layout.parse("plot", path)["chart"]: svg.read(path)
        for path in files.plots
        if layout.parse("plot", path)["chart"] != "affinity" or any(map(len, experts))
    }
    own_figures = {folder_of(path): artifact.read_json(path)["figures"] for path in files.figures}

    # --- the page ---
    study = params.study
    pair = study["pair"] and study["pair"] + "/"
    moes = {model for model, counts in parameters.items() if counts["total"] != counts["active"]}
    losses = {model: trained[model]["all"] for model in params.judged if model in trained}
    trigram = levels["trigram"]["all"] if levels else None
    records = list(metrics.values())
    best = finding.strongest(claims, panels, kinds, counted, records, metrics.get(pair))
    left_out = rows_left_out(records)
    first = page.First(
        title=compared.title(study),
        facts=compared.facts(study, parameters, records)
        + ([("Rows left out", [left_out])] if left_out else []),
        finding=best,
        warnings=row_warnings(records) + notes.warnings(losses, trigram, moes, params.barely),
        figure=sections.first_figure(svgs, best),
        can_say=notes.can_say(study, counted, panels),
        cannot_say=notes.cannot_say(
            study, counted, panels, losses, moes, list(params.rows), claims["withheld"]
        ),
    )
    differs = sections.differs(pair, features, examples, splicing, divergence, moved)
    of_one = {name: drawn for name, drawn in svgs.items() if CHARTS[name].of_one}
    whole = {CHARTS[name].title: page.figure(svgs[name]) for name in svgs if name not in of_one}
    figures = ({pair: of_one} if pair else {}) | own_figures
    numbers = tables.of_study(
        claims, panels, kinds, trends, over_seeds, counted, records, parameters,
        tables.cross_entropies(trained, splicing, levels), params.rows,
    )  # fmt: skip
    looked_at = [
        sections.browsed(
            labels.label_of(metrics[folder]),
            metrics[folder],
            table,
            examples.get(folder),
            recurs if folder == pair else [],
            experts if folder == pair else [],
        )
        for folder, table in features.items()
    ]
    shown = {
        **differs,
        "Claims and their verdicts": sections.claims(claims),
        **whole,
        "Figures of each dictionary": sections.of_each(figures, metrics, study["left_out"]),
        **{heading: page.table(rows) for heading, rows in numbers.items()},
        "What each stage took": sections.took(),
        "Features: search, sort, read": browser.browser(looked_at),
    }
    versions = artifact.made_by("plots")["versions"]
    artifact.write_text(snakemake.output[0], page.page(first, shown, versions))
