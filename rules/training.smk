# Token shards (and a model to begin with) -> a trained language model; of several peak rates the best is found first.


# A trial of the sweep is judged on the end of the train split: validation only reports.
rule sweep_trial:
    input:
        train=token_shards("train"),
        vocabulary=result("corpus/vocabulary.json"),
        init=trial_init_files,
    output:
        result("models/{model}/sweep/lr-{rate}.json"),
    log:
        log_of("sweep_trial/{model}-{rate}"),
    benchmark:
        benchmark_of("sweep_trial/{model}-{rate}")
    wildcard_constraints:
        model=one_of(TRAINED),
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        architecture=architecture,
        training=trial_params,
        sweep_tokens=sweep_tokens,
        across=config["corpus"]["sequence"]["attend_across_documents"],
        seed=trial_seed,
        version=VERSIONS["models"],
    script:
        "../scripts/training/sweep_trial.py"


rule sweep_best:
    input:
        trial_files,
    output:
        result("models/{model}/sweep/best.json"),
    log:
        log_of("sweep_best/{model}"),
    benchmark:
        benchmark_of("sweep_best/{model}")
    conda:
        "../envs/moediff.yaml"
    params:
        version=VERSIONS["models"],
    script:
        "../scripts/training/sweep_best.py"


rule train:
    input:
        train=token_shards("train"),
        validation=token_shards("validation"),
        vocabulary=result("corpus/vocabulary.json"),
        rate=best_rate_file,
        init=init_files,
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
        training=training_params,
        across=config["corpus"]["sequence"]["attend_across_documents"],
        version=VERSIONS["models"],
    script:
        "../scripts/training/train.py"
