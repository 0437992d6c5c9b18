"""Sum up what each stage took, as a table and as a page."""

from pathlib import Path

from moediff.job import job

with job(snakemake):
    from moediff.core import artifact
    from moediff.report import stages

    rows = stages.by_stage(Path(snakemake.config["results"]))
    artifact.write_plain_json(snakemake.output.table, {"stages": rows})
    versions = artifact.made_by("plots")["versions"]
    artifact.write_text(snakemake.output.page, stages.shown(rows, versions))
