"""Draw the charts of one job, each as a page, an SVG and a PNG."""

from pathlib import Path

from moediff.job import job

with job(snakemake) as log:
    from moediff.report import charts, theme

    params = snakemake.params
    tables = charts.open_tables(dict(snakemake.input.items()))
    for name in params.charts:
        chart = charts.draw(name, tables, params.settings, params.plots)
        theme.save(chart, [path for path in snakemake.output if Path(path).stem == name])
        log.info("%s: %s", name, charts.CHARTS[name].title)
