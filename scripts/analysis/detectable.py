"""The least effects that a panel's statistics would have seen, of all that were planted into its rows."""

from moediff.job import fit_of, job

with job(snakemake) as log:
    from moediff.analysis import detectable
    from moediff.core import artifact

    tries = [artifact.read_json(path) for path in snakemake.input]
    kept = ("share", "strength", "number", "class", "frequency", "planted", "others", "statistics")
    found = {
        "tries": [{key: one[key] for key in kept} for one in tries],
        "least": detectable.least(tries),
    }
    about = artifact.made_by("detectable") | fit_of(snakemake.wildcards)
    artifact.write_json(snakemake.output[0], about | found)
    for row in found["least"]:
        times = "that the others lack" if row["strength"] is None else f"{row['strength']:g} times"
        least = row["least"] if row["least"] else f"more than {row['largest_tried']}"
        log.info("%s, %s: least share of variance seen %s", row["statistic"], times, least)
