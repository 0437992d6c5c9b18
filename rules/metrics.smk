# Activation shards and dictionary x validation activations -> what was kept, numbers, one row a feature, and fve.json.


rule row_manifest:
    input:
        split_shards,
    output:
        result("activations/{model}/seed-{seed}/{split}.json"),
    log:
        log_of("row_manifest/{model}-{seed}-{split}"),
    benchmark:
        benchmark_of("row_manifest/{model}-{seed}-{split}")
    wildcard_constraints:
        split="fit|validation",
    conda:
        "../envs/moediff.yaml"
    params:
        version=VERSIONS["activations"],
    script:
        "../scripts/row_manifest.py"


rule metrics:
    input:
        dictionary=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/dictionary.safetensors"
        ),
        components=result("baselines/{comparison}/{member}/components.safetensors"),
        validation=member_shards("validation"),
        rows=row_manifests,
    output:
        metrics=result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/metrics.json"),
        features=result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/features.parquet"),
    log:
        log_of("metrics/{comparison}-{member}-{recipe}-{seed}"),
    benchmark:
        benchmark_of("metrics/{comparison}-{member}-{recipe}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        sources=source_names,
        points=source_points,
        features=config["features"],
        version=VERSIONS["metrics"],
    script:
        "../scripts/metrics.py"


rule fve:
    input:
        fit_files("metrics.json"),
    output:
        report(
            result("fve.json"),
            category="Numbers",
            labels={"file": "fraction of variance explained"},
        ),
    log:
        log_of("fve"),
    benchmark:
        benchmark_of("fve")
    conda:
        "../envs/moediff.yaml"
    params:
        version=VERSIONS["metrics"],
    script:
        "../scripts/fve.py"
