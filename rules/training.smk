# Token shards (and a model to begin with) -> a trained language model; of several peak rates the best is found first.


# A trial of the sweep is judged on the end of the train split: validation only reports.
rule sweep_trial:
    input:
        train=token_shards("train"),
        vocabulary=at("vocabulary"),
        init=trial_init_files,
    output:
        at("trial"),
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
        **needs("training", model_weights, trial_work),
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
        at("best_rate"),
    log:
        log_of("sweep_best/{model}"),
    benchmark:
        benchmark_of("sweep_best/{model}")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        version=VERSIONS["models"],
    script:
        "../scripts/training/sweep_best.py"


# One rule for all models whose weights are kept after the same steps, most of them after none but the last:
# Snakemake must know every file that a run leaves.
for number, (steps, models) in enumerate(kept_together().items()):

    rule:
        name:
            f"train_and_keep_{number}" if steps else "train"
        input:
            train=token_shards("train"),
            validation=token_shards("validation"),
            vocabulary=at("vocabulary"),
            rate=best_rate_file,
            init=init_files,
        output:
            **kept_files(steps),
            manifest=at("model", file="model.json"),
            weights=at("model", file="model.safetensors"),
            config=at("model", file="config.json"),
            history=at("model", file="history.parquet"),
        log:
            log_of("train/{model}-{seed}"),
        benchmark:
            benchmark_of("train/{model}-{seed}")
        wildcard_constraints:
            model=one_of(models),
        conda:
            "../envs/moediff.yaml"
        threads: THREADS
        resources:
            **needs("training", model_weights, training_work),
        params:
            **({"keep": list(steps)} if steps else {}),
            architecture=architecture,
            training=training_params,
            across=config["corpus"]["sequence"]["attend_across_documents"],
            version=VERSIONS["models"],
        script:
            "../scripts/training/train.py"
