"""Pack one split into token shards."""

from moediff.job import job

with job(snakemake) as log:
    from moediff.core import artifact
    from moediff.corpus import packing, token_shards, tokenizer

    params = snakemake.params
    vocabulary = tokenizer.read_vocabulary(snakemake.input.vocabulary)
    arrays = packing.pack(
        dict(zip(params.domains, snakemake.input.corpus, strict=True)),
        dict(zip(params.domains, params.weights, strict=True)),
        tokenizer.open_tokenizer(snakemake.input.tokenizer, vocabulary.digest),
        vocabulary.end_of_text,
        params.split,
        params.sequences,
        params.length,
        params.seed,
    )
    provenance = artifact.made_by(
        "token_shards", split=params.split, seed=params.seed, weights=list(params.weights)
    )
    per_shard = params.shard_tokens // params.length
    for number, path in enumerate(snakemake.output):
        part = slice(number * per_shard, (number + 1) * per_shard)
        token_shards.write_token_shard(
            path,
            {name: array[part] for name, array in arrays.items()},
            params.domains,
            vocabulary.digest,
            part.start,
            provenance,
            vocabulary.special,
        )
    log.info("%s: %d tokens in %d shards", params.split, arrays["tokens"].size, number + 1)
