# Model x token shard -> activation shard; or external activations -> activation shard.


# External activations need no text and no model.
if "corpus" in config:

    rule calibrate:
        input:
            model=model_files,
            tokens=tokens_of,
        output:
            at("points"),
        log:
            log_of("calibrate/{model}-{seed}"),
        benchmark:
            benchmark_of("calibrate/{model}-{seed}")
        wildcard_constraints:
            model=one_of(LANGUAGE_MODELS),
        conda:
            "../envs/moediff.yaml"
        resources:
            **needs("activations", model_weights),
        params:
            model=lambda wildcards: wildcards.model,
            reading=reading_settings,
            across=config["corpus"]["sequence"]["attend_across_documents"],
            version=VERSIONS["activations"],
        script:
            "../scripts/activations/calibrate.py"

    rule cache:
        input:
            model=model_files,
            tokens=tokens_of,
            points=at("points"),
        output:
            shard_file(),
        log:
            log_of("cache/{model}-{seed}/{split}-{shard}"),
        benchmark:
            benchmark_of("cache/{model}-{seed}/{split}-{shard}")
        wildcard_constraints:
            model=one_of(LANGUAGE_MODELS),
        conda:
            "../envs/moediff.yaml"
        resources:
            **needs("activations", **any_shard()),
        params:
            model=lambda wildcards: wildcards.model,
            seed=lambda wildcards: int(wildcards.seed),
            parts=lambda wildcards: [f"{wildcards.split} {wildcards.shard}"],
            reading=reading_settings,
            batch=config["activations"]["batch"],
            chunk_rows=config["activations"]["chunk_rows"],
            across=config["corpus"]["sequence"]["attend_across_documents"],
            version=VERSIONS["activations"],
        script:
            "../scripts/activations/cache.py"

    # The same job for several shards of one model (`shards_per_job`).
    for number, shared in enumerate(SHARED_SHARDS):

        rule:
            name:
                f"cache_{number}"
            input:
                model=model_files(shared),
                tokens=token_files_of(shared),
                points=at("points", model=shared.model, seed=shared.seed),
            output:
                [
                    shard_file(model=shared.model, seed=shared.seed, split=split, shard=shard)
                    for split, shard in shared.parts
                ],
            log:
                log_of(f"cache/{shared.model}-{shared.seed}/{number}-shared"),
            benchmark:
                benchmark_of(f"cache/{shared.model}-{shared.seed}/{number}-shared")
            conda:
                "../envs/moediff.yaml"
            resources:
                **needs(
                    "activations",
                    lambda wildcards, shared=shared: model_weights(shared),
                    lambda wildcards, shared=shared: forward_work_of(
                        shared.model, [split for split, _ in shared.parts]
                    ),
                ),
            params:
                model=shared.model,
                seed=shared.seed,
                parts=[f"{split} {shard:05d}" for split, shard in shared.parts],
                reading=reading_settings(shared),
                batch=config["activations"]["batch"],
                chunk_rows=config["activations"]["chunk_rows"],
                across=config["corpus"]["sequence"]["attend_across_documents"],
                version=VERSIONS["activations"],
            script:
                "../scripts/activations/cache.py"

    # One order of all: Snakemake goes through every order that was given to compare two rules.
    if SHARED_SHARDS:
        workflow.ruleorder(
            *(f"cache_{number}" for number in range(len(SHARED_SHARDS))), "cache"
        )


rule external_measure:
    input:
        rows_files,
    output:
        at("points"),
    log:
        log_of("external_measure/{model}-{seed}"),
    benchmark:
        benchmark_of("external_measure/{model}-{seed}")
    wildcard_constraints:
        model=one_of(EXTERNAL),
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("external"),
    params:
        path=rows_path,
        array=rows_array,
        dtype=config["activations"]["dtype"],
        version=VERSIONS["activations"],
    script:
        "../scripts/activations/external_measure.py"


rule external_store:
    input:
        rows=rows_files,
        measured=at("points"),
    output:
        shard_file(),
    log:
        log_of("external_store/{model}-{seed}/{split}-{shard}"),
    benchmark:
        benchmark_of("external_store/{model}-{seed}/{split}-{shard}")
    wildcard_constraints:
        model=one_of(EXTERNAL),
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("external"),
    params:
        path=rows_path,
        array=rows_array,
        domains=rows_domains,
        dtype=config["activations"]["dtype"],
        chunk_rows=config["activations"]["chunk_rows"],
        version=VERSIONS["activations"],
    script:
        "../scripts/activations/external_store.py"


rule manifest:
    input:
        split_shards,
    output:
        at("manifest"),
    log:
        log_of("manifest/{model}-{seed}-{split}"),
    benchmark:
        benchmark_of("manifest/{model}-{seed}-{split}")
    wildcard_constraints:
        split="fit|validation",
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        version=VERSIONS["activations"],
    script:
        "../scripts/activations/manifest.py"
