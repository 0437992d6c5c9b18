"""Gather the rows of every dictionary into fve.json."""

from moediff.job import job, of_fits

with job(snakemake) as log:
    from moediff.core import artifact

    found = of_fits(snakemake.input)
    rows = [row for metrics in found for row in metrics["fve"]]
    # A reader takes the columns from the first rows: every row has all of them.
    every = dict.fromkeys(name for row in rows for name in row)
    rows = [every | row for row in rows]
    artifact.write_json(snakemake.output[0], artifact.made_by("metrics") | {"rows": rows})
    for row in rows:
        if row["source"] == "pooled" and row["mode"] == "threshold":
            log.info("%s %s %s: fve %.4f, pca %.4f, l0 %.2f", row["comparison"], row["member"],
                     row["recipe"], row["fve"], row["baseline_pca"], row["l0"])  # fmt: skip
