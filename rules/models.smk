# Token shards -> a trained language model, or a checkpoint loaded; and the n-grams it must beat.


rule ngrams:
    input:
        train=token_shards("train"),
        validation=token_shards("validation"),
        vocabulary=result("corpus/vocabulary.json"),
    output:
        result("models/ngrams.json"),
    log:
        log_of("ngrams"),
    benchmark:
        benchmark_of("ngrams")
    conda:
        "../envs/moediff.yaml"
    params:
        across=config["corpus"]["sequence"]["attend_across_documents"],
        version=VERSIONS["ngrams"],
    script:
        "../scripts/ngrams.py"


# A trial of the sweep is judged on the end of the train split: validation only reports.
rule trial:
    input:
        train=token_shards("train"),
        vocabulary=result("corpus/vocabulary.json"),
    output:
        result("models/{model}/sweep/lr-{rate}.json"),
    log:
        log_of("trial/{model}-{rate}"),
    benchmark:
        benchmark_of("trial/{model}-{rate}")
    wildcard_constraints:
        model=one_of(TRAINED),
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        architecture=architecture,
        training=trial_settings,
        sweep_tokens=config["training"]["sweep_tokens"],
        across=config["corpus"]["sequence"]["attend_across_documents"],
        seed=config["training"]["seeds"][0],
        version=VERSIONS["models"],
    script:
        "../scripts/trial.py"


rule best_rate:
    input:
        trial_files,
    output:
        result("models/{model}/sweep/best.json"),
    log:
        log_of("best_rate/{model}"),
    benchmark:
        benchmark_of("best_rate/{model}")
    conda:
        "../envs/moediff.yaml"
    params:
        version=VERSIONS["models"],
    script:
        "../scripts/best_rate.py"


rule train:
    input:
        train=token_shards("train"),
        validation=token_shards("validation"),
        vocabulary=result("corpus/vocabulary.json"),
        rate=best_rate_file,
    output:
        manifest=result("models/{model}/seed-{seed}/model.json"),
        weights=result("models/{model}/seed-{seed}/model.safetensors"),
        config=result("models/{model}/seed-{seed}/config.json"),
        history=result("models/{model}/seed-{seed}/history.parquet"),
    log:
        log_of("train/{model}-{seed}"),
    benchmark:
        benchmark_of("train/{model}-{seed}")
    wildcard_constraints:
        model=one_of(TRAINED),
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        architecture=architecture,
        training=training_settings,
        across=config["corpus"]["sequence"]["attend_across_documents"],
        version=VERSIONS["models"],
    script:
        "../scripts/train.py"


rule load:
    input:
        checkpoint_files,
        vocabulary=result("corpus/vocabulary.json"),
    output:
        manifest=result("models/{model}/seed-{seed}/model.json"),
    log:
        log_of("load/{model}-{seed}"),
    benchmark:
        benchmark_of("load/{model}-{seed}")
    wildcard_constraints:
        model=one_of(LOADED),
    conda:
        "../envs/moediff.yaml"
    params:
        settings=model_settings,
        length=config["corpus"]["sequence"]["length"],
        version=VERSIONS["models"],
    script:
        "../scripts/load.py"
