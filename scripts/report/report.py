"""Gather numbers and plots into one self-contained page."""

from moediff.job import job

with job(snakemake):
    from pathlib import Path

    from moediff.analysis import example_files
    from moediff.config import layout
    from moediff.core import artifact
    from moediff.report import browser, labels, page, tables
    from moediff.report.charts import CHARTS
    from moediff.report.row_cautions import row_cautions
    from moediff.training import history

    files, params = snakemake.input, snakemake.params

    def model_of(path):
        return layout.parse("model", path)["model"]

    ends = {}
    for path in files.histories:
        ends.setdefault(model_of(path), []).append(history.final_losses(history.read(path)))
    losses = tables.mean_losses(ends)
    levels = tables.ngram_levels(
        [row for path in files.ngrams for row in artifact.read_json(path)["rows"]]
    )
    parameters = {
        model_of(path): artifact.read_json(path)["parameters"] for path in files.manifests
    }
    study = artifact.read_json(files.claims)
    metrics = [artifact.read_json(path) for path in files.metrics]
    numbers = tables.of_study(
        study,
        artifact.read_json(files.panels)["panels"],
        artifact.read_json(files.classes),
        metrics,
        parameters,
        losses | levels,
        params.rows,
    )
    plots = {
        CHARTS[layout.parse("plot", path)["chart"]].title: page.figure(
            Path(path).read_text(encoding="utf-8")
        )
        for path in files.plots
    }

    def looked_at(features, examples, recurs=(), experts=()):
        """A dictionary to look through."""
        table = artifact.read_parquet(features)
        for path in recurs:
            table = browser.with_recurrence(table, artifact.read_parquet(path))
        told = [
            browser.experts_told(
                artifact.read_parquet(path), layout.parse("experts", path)["source"]
            )
            for path in experts
        ]
        label = labels.label_of(layout.parse("dictionary", features))
        return browser.Browsed(label, table, example_files.read(examples), *told)

    # Of the first, the pair, more is known than of the others.
    more = [(files.recurs, files.experts), *[()] * len(files.features)]
    dictionaries = [
        looked_at(*paths, *others)
        for *paths, others in zip(files.features, files.examples, more, strict=False)
    ]
    features = (
        {"Features: search, sort, read": browser.browser(dictionaries)} if dictionaries else {}
    )
    sentences = row_cautions(metrics) + page.verdicts(
        {model: losses[model]["all"] for model in params.judged if model in losses},
        levels["trigram"]["all"] if levels else None,
        {model for model, counts in parameters.items() if counts["total"] != counts["active"]},
        params.barely,
        list(params.rows),
        study["withheld"],
    )
    sections = page.sections(numbers, plots, features)
    versions = artifact.made_by("plots")["versions"]
    artifact.write_text(snakemake.output[0], page.page(sentences, sections, versions))
