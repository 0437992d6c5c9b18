"""Draw what every panel finds under the true labels and under all others."""

from _job import job

with job(snakemake):
    import polars as pl

    from moediff import artifact, drawing, panel, plots

    tables = []
    for found in artifact.read_json(snakemake.input[0])["panels"]:
        name = drawing.dictionary_label(
            *(found[key] for key in ("comparison", "member", "recipe", "seed"))
        )
        rows = panel.null_rows(found["groups"], found["kinds"])
        tables.append(panel.drawn_rows(name, rows, found["judged"]))
    chart = plots.panel_chart(pl.concat(tables), snakemake.params.plots)
    drawing.save(chart, snakemake.output)
