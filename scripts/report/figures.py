"""Draw the figures of one dictionary that its own features draw."""

from moediff.job import job

with job(snakemake):
    from moediff.core import artifact
    from moediff.report import charts, theme

    params = snakemake.params
    tables = charts.open_tables(dict(snakemake.input.items()))
    figures = {
        name: theme.svg(charts.draw(name, tables, params.settings, params.plots))
        for name in params.charts
    }
    artifact.write_json(snakemake.output[0], artifact.made_by("plots") | {"figures": figures})
