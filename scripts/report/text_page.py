"""A page of the first validation text: which experts of one MoE each token used, and what each would say."""

from moediff.job import job, open_model

with job(snakemake, torch_threads=True):
    from pathlib import Path

    from moediff.analysis.reruns import Pass, Text
    from moediff.core import artifact
    from moediff.corpus.token_classes import token_texts
    from moediff.corpus.token_shards import read_token_shard
    from moediff.corpus.tokenizer import (
        load_tokenizer,
        open_tokenizer,
        read_vocabulary,
        vocabulary_size,
    )
    from moediff.experts.text_reading import read_text
    from moediff.report.text_page import text_page

    found, params, named = snakemake.input, snakemake.params, snakemake.wildcards
    model, facts = open_model(snakemake)
    if params.own_tokenizer:
        folder = Path(found.model[0]).parent if facts["folder"] == "." else facts["folder"]
        tokenizer, *_ = load_tokenizer(str(folder), None, found.model[0])
    else:
        digest = read_vocabulary(found.vocabulary).digest
        tokenizer = open_tokenizer(found.tokenizer, digest)
    shard = read_token_shard(found.tokens[0])
    run = Pass(model, Text(shard), slice(0, params.sequences), params.across)
    read = read_text(run, token_texts(tokenizer, vocabulary_size(tokenizer)).tolist())
    artifact.write_text(snakemake.output[0], text_page(f"{named.model}.{named.seed}", read))
