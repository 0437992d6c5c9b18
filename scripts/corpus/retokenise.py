"""The text of a token shard by the tokenizer of a checkpoint, in the same sequences."""

from moediff.job import job

with job(snakemake) as log:
    from pathlib import Path

    from moediff.core import artifact
    from moediff.corpus import token_shards
    from moediff.corpus.alignment import retokenise
    from moediff.corpus.sources import find_texts
    from moediff.corpus.tokenizer import load_tokenizer, special_ids

    manifest = Path(snakemake.input.model)
    facts = artifact.read_json(manifest)
    folder = manifest.parent if facts["folder"] == "." else Path(facts["folder"])
    tokenizer, end, special = load_tokenizer(str(folder), None, str(manifest))
    shard = token_shards.read_token_shard(snakemake.input.tokens)
    texts = find_texts(snakemake.input.corpus, set(shard.document.ravel().tolist()))
    begin = facts.get("begin_of_text")
    begin = begin and special_ids(tokenizer, [begin])[0]
    arrays = retokenise(shard, texts, tokenizer, tokenizer.token_to_id(end), begin)
    token_shards.write_token_shard(
        snakemake.output[0],
        arrays,
        shard.domains,
        artifact.digest(tokenizer.to_str()),
        shard.first,
        artifact.made_by("token_shards", tokens=shard.digest),
        special_ids(tokenizer, special),
    )
    log.info(
        "%s: sequences of %d tokens have %d at most",
        snakemake.output[0],
        shard.tokens.shape[1],
        arrays["tokens"].shape[1],
    )
