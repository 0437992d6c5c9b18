# Model x token shard -> activation shard.


# The text of a token shard by the tokenizer of a checkpoint that has its own.
rule retokenise:
    input:
        tokens=result("corpus/{split}/{shard}.h5"),
        corpus=corpus_files(),
        model=result("models/{model}/seed-0/model.json"),
    output:
        result("retokenised/{model}/{split}/{shard}.h5"),
    log:
        log_of("retokenise/{model}-{split}-{shard}"),
    benchmark:
        benchmark_of("retokenise/{model}-{split}-{shard}")
    wildcard_constraints:
        model=one_of(settings.own_tokenizers(config)),
    conda:
        "../envs/moediff.yaml"
    params:
        version=VERSIONS["token_shards"],
    script:
        "../scripts/retokenise.py"


rule calibrate:
    input:
        model=model_files,
        tokens=tokens_of,
    output:
        result("activations/{model}/seed-{seed}/points.json"),
    log:
        log_of("calibrate/{model}-{seed}"),
    benchmark:
        benchmark_of("calibrate/{model}-{seed}")
    wildcard_constraints:
        model=one_of(LANGUAGE_MODELS),
    conda:
        "../envs/moediff.yaml"
    resources:
        gpu=GPU,
    params:
        reading=reading_settings,
        across=config["corpus"]["sequence"]["attend_across_documents"],
        version=VERSIONS["activations"],
    script:
        "../scripts/calibrate.py"


rule activations:
    input:
        model=model_files,
        tokens=tokens_of,
        points=result("activations/{model}/seed-{seed}/points.json"),
    output:
        shard_file(),
    log:
        log_of("activations/{model}-{seed}/{split}-{shard}"),
    benchmark:
        benchmark_of("activations/{model}-{seed}/{split}-{shard}")
    wildcard_constraints:
        model=one_of(LANGUAGE_MODELS),
    conda:
        "../envs/moediff.yaml"
    resources:
        gpu=GPU,
    params:
        reading=reading_settings,
        batch=config["activations"]["batch"],
        chunk_rows=config["activations"]["chunk_rows"],
        across=config["corpus"]["sequence"]["attend_across_documents"],
        version=VERSIONS["activations"],
    script:
        "../scripts/activations.py"
