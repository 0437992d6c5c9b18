# Text -> documents -> tokenizer -> token shards, also by the tokenizers of checkpoints; and the n-grams that models must beat.


rule documents:
    input:
        domain_files,
    output:
        at("documents"),
    log:
        log_of("documents/{domain}"),
    benchmark:
        benchmark_of("documents/{domain}")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("documents", memory=largest_file),
    params:
        settings=domain_settings,
        splits=config["corpus"]["splits"],
        most_bytes=domain_bytes,
        version=VERSIONS["documents"],
    script:
        "../scripts/corpus/documents.py"


rule tokenizer:
    input:
        tokenizer_sources,
    output:
        tokenizer=at("tokenizer"),
        vocabulary=at("vocabulary"),
    log:
        log_of("tokenizer"),
    benchmark:
        benchmark_of("tokenizer")
    conda:
        "../envs/moediff.yaml"
    threads: 2
    resources:
        **needs("tokens"),
    params:
        settings=config["corpus"]["tokenizer"],
        version=VERSIONS["tokenizer"],
    script:
        "../scripts/corpus/tokenizer.py"


# One rule a split: more text to fit dictionaries on must not retrain a language model.
for split in settings.SPLITS:

    rule:
        name:
            f"token_shards_{split}"
        input:
            corpus=corpus_files(),
            tokenizer=at("tokenizer"),
            vocabulary=at("vocabulary"),
        output:
            token_shards(split),
        log:
            log_of(f"token_shards/{split}"),
        benchmark:
            benchmark_of(f"token_shards/{split}")
        conda:
            "../envs/moediff.yaml"
        threads: 2
        resources:
            **needs("tokens"),
        params:
            split=split,
            domains=DOMAINS,
            weights=[domain["weight"] for domain in config["corpus"]["domains"].values()],
            sequences=settings.sequences(config, split),
            length=config["corpus"]["sequence"]["length"],
            shard_tokens=config["corpus"]["shard_tokens"],
            seed=config["corpus"]["seed"],
            version=VERSIONS["token_shards"],
        script:
            "../scripts/corpus/token_shards.py"


# The text of a token shard by the tokenizer of a checkpoint that has its own.
rule retokenise:
    input:
        tokens=at("tokens"),
        corpus=corpus_files(),
        model=at("model", seed=0, file="model.json"),
    output:
        at("retokenised"),
    log:
        log_of("retokenise/{model}-{split}-{shard}"),
    benchmark:
        benchmark_of("retokenise/{model}-{split}-{shard}")
    wildcard_constraints:
        model=one_of(settings.own_tokenizers(config)),
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tokens"),
    params:
        version=VERSIONS["token_shards"],
    script:
        "../scripts/corpus/retokenise.py"


rule ngrams:
    input:
        train=token_shards("train"),
        validation=token_shards("validation"),
        vocabulary=at("vocabulary"),
    output:
        at("ngrams"),
    log:
        log_of("ngrams"),
    benchmark:
        benchmark_of("ngrams")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tokens"),
    params:
        across=config["corpus"]["sequence"]["attend_across_documents"],
        version=VERSIONS["ngrams"],
    script:
        "../scripts/corpus/ngrams.py"
