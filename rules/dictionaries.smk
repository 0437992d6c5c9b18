# Activation shards -> SAE or crosscoder, and the principal components it must beat.


rule components:
    input:
        member_shards("fit"),
    output:
        result("baselines/{comparison}/{member}/components.safetensors"),
    log:
        log_of("components/{comparison}-{member}"),
    benchmark:
        benchmark_of("components/{comparison}-{member}")
    conda:
        "../envs/moediff.yaml"
    params:
        sources=source_names,
        version=VERSIONS["baselines"],
    script:
        "../scripts/components.py"


rule dictionary:
    input:
        member_shards("fit"),
    output:
        dictionary=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/dictionary.safetensors"
        ),
        history=result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/history.parquet"),
    log:
        log_of("dictionary/{comparison}-{member}-{recipe}-{seed}"),
    benchmark:
        benchmark_of("dictionary/{comparison}-{member}-{recipe}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        sources=source_names,
        recipe=recipe_settings,
        version=VERSIONS["dictionaries"],
    script:
        "../scripts/dictionary.py"
