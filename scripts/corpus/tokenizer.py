"""Train a byte-level BPE on the train split, or fetch a pretrained tokenizer."""

from moediff.job import job

with job(snakemake) as log:
    from moediff.corpus.tokenizer import (
        END_OF_TEXT,
        load_tokenizer,
        train_tokenizer,
        training_texts,
        write_tokenizer,
    )

    settings = snakemake.params.settings
    if "train" in settings:
        texts = training_texts(snakemake.input)
        tokenizer, end = train_tokenizer(texts, settings["train"]), END_OF_TEXT
        special = [end]
    else:
        tokenizer, end, special = load_tokenizer(settings["load"], settings["revision"])
    write_tokenizer(
        snakemake.output.tokenizer, snakemake.output.vocabulary, tokenizer, end, special
    )
    log.info("tokenizer: %d entries", tokenizer.get_vocab_size(with_added_tokens=True))
