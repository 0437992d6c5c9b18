"""Train a byte-level BPE on the train split, or fetch a pretrained tokenizer."""

from _job import job

with job(snakemake) as log:
    from moediff import tokens

    settings = snakemake.params.settings
    if "train" in settings:
        texts = tokens.training_texts(snakemake.input)
        tokenizer, end = tokens.train_tokenizer(texts, settings["train"]), tokens.END_OF_TEXT
        special = [end]
    else:
        tokenizer, end, special = tokens.load_tokenizer(settings["load"], settings["revision"])
    tokens.write_tokenizer(
        snakemake.output.tokenizer, snakemake.output.vocabulary, tokenizer, end, special
    )
    log.info("tokenizer: %d entries", tokenizer.get_vocab_size(with_added_tokens=True))
