"""Write the event file of every history."""

from moediff.job import job

with job(snakemake):
    from moediff.report import events

    for path, written in zip(snakemake.input, snakemake.output, strict=True):
        events.write(written, events.rows_of(path))
