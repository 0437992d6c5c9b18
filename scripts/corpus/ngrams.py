"""Measure unigram, bigram and trigram models on the validation tokens."""

from moediff.job import job

with job(snakemake) as log:
    from pathlib import Path

    from moediff.core import artifact
    from moediff.corpus.ngrams import ngram_losses
    from moediff.corpus.token_shards import TokenSplit
    from moediff.corpus.tokenizer import read_vocabulary

    across, scratch = snakemake.params.across, Path(snakemake.output[0]).parent
    train = TokenSplit(snakemake.input.train, across, scratch)
    validation = TokenSplit(snakemake.input.validation, across, scratch)
    vocabulary = read_vocabulary(snakemake.input.vocabulary)
    rows = ngram_losses(train, validation, vocabulary.size, scratch)
    made_by = artifact.made_by("ngrams", train=train.digest, validation=validation.digest)
    artifact.write_json(snakemake.output[0], {**made_by, "rows": rows})
    for row in rows:
        if row["domain"] == "all":
            log.info("%s: %.4f nats a token", row["model"], row["cross_entropy"])
