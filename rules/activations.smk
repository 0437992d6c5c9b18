# Model x token shard -> activation shard.


rule calibrate:
    input:
        model=model_files,
        tokens=token_shard("fit", 0),
        vocabulary=result("corpus/vocabulary.json"),
    output:
        result("activations/{model}/seed-{seed}/hook.json"),
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
        hook=hook_settings,
        across=config["corpus"]["sequence"]["attend_across_documents"],
        version=VERSIONS["activations"],
    script:
        "../scripts/calibrate.py"


rule activations:
    input:
        model=model_files,
        tokens=result("corpus/{split}/{shard}.h5"),
        vocabulary=result("corpus/vocabulary.json"),
        hook=result("activations/{model}/seed-{seed}/hook.json"),
    output:
        result("activations/{model}/seed-{seed}/{split}/{shard}.zarr.zip"),
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
        hook=hook_settings,
        batch=config["activations"]["batch"],
        chunk_rows=config["activations"]["chunk_rows"],
        across=config["corpus"]["sequence"]["attend_across_documents"],
        version=VERSIONS["activations"],
    script:
        "../scripts/activations.py"
