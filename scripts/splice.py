"""The loss of each source's model with a dictionary's reconstruction in place of its activations."""

from _job import job

with job(snakemake, torch_threads=True) as log:
    from collections.abc import Iterator

    import numpy as np
    import polars as pl

    from moediff import artifact, capture, features, models, splicing
    from moediff.dictionary import Dictionary
    from moediff.errors import UserError
    from moediff.hooks import Point
    from moediff.tokens import TokenShard, read_token_shard

    params, wildcards = snakemake.params, snakemake.wildcards
    dictionary, facts = Dictionary.load(snakemake.input.dictionary)
    device = models.pick_device(snakemake.config["device"])
    placed = {name: model.get("device_map") for name, model in snakemake.config["models"].items()}
    opened = {  # a model at two points is opened once
        path: models.open_manifest(path, device, placed[name])
        for path, name in dict(zip(snakemake.input.models, params.models, strict=True)).items()
    }
    sides = []
    for name, path, points, origin in zip(
        params.sources,
        snakemake.input.models,
        snakemake.input.points,
        facts["origins"],
        strict=True,
    ):
        model, described = opened[path]
        if described["digest"] != origin["model"]:
            raise UserError(
                f"{snakemake.input.dictionary}: fitted on other models than {path} describes; "
                "remove it and run the same snakemake command again"
            )
        point = Point.named(origin["hook"])
        most = None
        if params.drop["massive_norm"] is not None:
            measured = artifact.read_json(points)["points"].values()
            (norm,) = {m["median_norm"] for m in measured if Point(m["hook"], m["layer"]) == point}
            most = params.drop["massive_norm"] * norm
        sides.append(splicing.Side(name, model, point, most))

    def texts() -> Iterator[list[tuple[TokenShard, np.ndarray]]]:
        """Each token shard and its kept rows, as the model of each side reads it."""
        paths, each = list(snakemake.input.tokens), params.tokenizers
        for first in range(0, len(paths), each):
            shards = [read_token_shard(path) for path in paths[first : first + each]]
            masks = [
                capture.kept_rows(shard, params.drop, params.across, shards[:i] + shards[i + 1 :])
                for i, shard in enumerate(shards)
            ]
            yield [(shards[i], masks[i].mask) for i in params.reads]

    deleted = {}
    if len(sides) == 2:
        classes = artifact.read_parquet(snakemake.input.features, ["class"])["class"].to_numpy()
        deleted = {
            name: classes == name
            for name in features.CLASSES
            if name != "dead" and (classes == name).any()
        }
    found = splicing.splice(
        sides,
        texts(),
        dictionary,
        params.across,
        params.sequences,
        params.batch,
        params.frozen,
        deleted,
    )
    about = {
        "comparison": wildcards.comparison,
        "member": wildcards.member,
        "recipe": wildcards.recipe,
        "seed": int(wildcards.seed),
    }
    table = pl.DataFrame([about]).join(found, how="cross")
    made_by = artifact.made_by("splicing", origins=facts["origins"], sequences=params.sequences)
    artifact.write_parquet(snakemake.output[0], table, made_by)
    whole = found.filter((pl.col("domain") == splicing.ALL) & (pl.col("kind") == splicing.SPLICED))
    for row in whole.iter_rows(named=True):
        log.info("%s, routing %s: cross-entropy %.4f, recovered %s of zero and %s of mean ablation",
                 row["source"], row["routing"], row["cross_entropy"], row["recovered_zero"],
                 row["recovered_mean"])  # fmt: skip
