"""Pack one split into token shards."""

from moediff.job import job

with job(snakemake) as log:
    from pathlib import Path

    from moediff.core import artifact
    from moediff.corpus import packing, token_shards, tokenizer

    params = snakemake.params
    vocabulary = tokenizer.read_vocabulary(snakemake.input.vocabulary)
    shards = packing.packed(
        dict(zip(params.domains, snakemake.input.corpus, strict=True)),
        dict(zip(params.domains, params.weights, strict=True)),
        tokenizer.open_tokenizer(snakemake.input.tokenizer, vocabulary.digest),
        vocabulary.end_of_text,
        params.split,
        params.sequences,
        params.length,
        params.seed,
        params.shard_tokens // params.length,
        Path(snakemake.output[0]).parent,
    )
    provenance = artifact.made_by(
        "token_shards", split=params.split, seed=params.seed, weights=list(params.weights)
    )
    first = 0
    for path, arrays in zip(snakemake.output, shards, strict=True):
        token_shards.write_token_shard(
            path, arrays, params.domains, vocabulary.digest, first, provenance, vocabulary.special
        )
        first += len(arrays["tokens"])
    count = first * params.length
    log.info("%s: %d tokens in %d shards", params.split, count, len(snakemake.output))
