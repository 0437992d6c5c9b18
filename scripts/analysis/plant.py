"""Plant one effect into a panel's rows, fit its dictionary anew and see whether the panel shows it."""

from moediff.job import fit_of, job, state_folder

with job(snakemake, torch_threads=True) as log:
    from moediff.activations import planting
    from moediff.activations.rows import AlignedRows
    from moediff.analysis import deletion, detectable
    from moediff.analysis.carried import carried
    from moediff.core import artifact
    from moediff.core.device import pick_device
    from moediff.corpus import token_classes
    from moediff.corpus.token_shards import read_token_shard
    from moediff.corpus.tokenizer import open_tokenizer, read_vocabulary
    from moediff.dictionaries import fitting

    found, params, wildcards = snakemake.input, snakemake.params, snakemake.wildcards
    names, points, tried = list(params.sources), params.points, params.tried
    device = pick_device(snakemake.config["device"])
    vocabulary = read_vocabulary(found.vocabulary)
    tokenizer = open_tokenizer(found.tokenizer, vocabulary.digest)
    texts = token_classes.token_texts(tokenizer, vocabulary.size)

    def where(paths):
        """Of each token shard, where its tokens are of the class, and its first sequence."""
        shards = [read_token_shard(path) for path in paths]
        masks = [token_classes.class_mask(tried["class"], shard, texts) for shard in shards]
        return masks, [shard.first for shard in shards]

    fit_classes, validation_classes = where(found.fit_tokens), where(found.validation_tokens)
    rows = AlignedRows.of(found.fit, points)
    side = detectable.side_of_try(
        len(names), len(next(iter(params.kinds.values()))), tried["number"]
    )
    shares = detectable.shares_of_sources(side, tried["share"], tried["strength"])
    frequency = planting.share_of_rows(rows, *fit_classes)
    vectors = planting.signal_vectors(rows, frequency, shares, tried["number"])
    planted = planting.PlantedRows.of(
        found.fit, points, signal=planting.Signal(*fit_classes, vectors)
    )
    known = {
        "sources": names, "rows": planted.digest, "recipe": dict(params.recipe),
        "seed": int(wildcards.seed),
    }  # fmt: skip
    name = f"{wildcards.comparison}, {wildcards.planted}"
    state = state_folder(snakemake, "planted", name, known, params.version, device.type)
    dictionary, _ = fitting.fit(planted, params.recipe, int(wildcards.seed), state, device)
    validation = planting.PlantedRows.of(
        found.validation, points, signal=planting.Signal(*validation_classes, vectors)
    )
    batch = params.recipe["batch"]
    explained = deletion.deleted_alone(dictionary, validation, batch, device)
    statistics = detectable.judged(explained, names, side, params.floor)
    part = carried(dictionary, validation, batch, device)
    statistics[detectable.CATALOGUE] = detectable.carrier(part, explained, side)
    artifact.write_json(
        snakemake.output[0],
        artifact.made_by("detectable")
        | {
            **fit_of(wildcards),
            **tried,
            "frequency": frequency,
            **detectable.sides(names, side),
            "statistics": statistics,
        },
    )
    seen = [name for name, row in statistics.items() if row["seen"]]
    log.info("%s at %s: seen by %s; its feature carries %.2f of it", wildcards.planted, tried["class"],
             ", ".join(seen) or "nothing", statistics[detectable.CATALOGUE]["carries"])  # fmt: skip
