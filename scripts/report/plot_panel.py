"""Draw what every panel finds under the true labels and under all others."""

from moediff.job import job

with job(snakemake):
    import polars as pl

    from moediff.analysis import panel
    from moediff.core import artifact
    from moediff.report import theme
    from moediff.report.charts.panel import panel_chart

    tables = []
    for found in artifact.read_json(snakemake.input[0])["panels"]:
        name = theme.dictionary_label(
            *(found[key] for key in ("comparison", "member", "recipe", "seed"))
        )
        rows = panel.null_rows(found["groups"], found["kinds"])
        tables.append(panel.drawn_rows(name, rows, found["judged"]))
    chart = panel_chart(pl.concat(tables), snakemake.params.plots)
    theme.save(chart, snakemake.output)
