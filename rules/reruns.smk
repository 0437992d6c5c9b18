# Models run again on validation text: losses with reconstructions in place, also without a panel's groups; experts joined to features.


rule splice:
    input:
        dictionary=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/dictionary.safetensors"
        ),
        features=result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/features.parquet"),
        models=source_manifests,
        weights=source_weights,
        points=source_measured,
        tokens=tokens_again,
    output:
        result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/splicing.parquet"),
    log:
        log_of("splice/{comparison}-{member}-{recipe}-{seed}"),
    benchmark:
        benchmark_of("splice/{comparison}-{member}-{recipe}-{seed}")
    wildcard_constraints:
        member=AS_IT_IS,
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        sources=source_names,
        models=source_models,
        reads=source_tokenizers,
        tokenizers=1 + len(settings.own_tokenizers(config)),
        drop=config["activations"]["drop"],
        across=config["corpus"]["sequence"]["attend_across_documents"],
        sequences=config["reruns"]["sequences"],
        batch=config["activations"]["batch"],
        frozen=config["activations"]["routing"] != "none",
        version=VERSIONS["splicing"],
    script:
        "../scripts/splice.py"


rule panel_loss:
    input:
        dictionary=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/dictionary.safetensors"
        ),
        explained=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/explained.parquet"
        ),
        models=source_manifests,
        weights=source_weights,
        points=source_measured,
        tokens=tokens_again,
    output:
        result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/panel_loss.json"),
    log:
        log_of("panel_loss/{comparison}-{member}-{recipe}-{seed}"),
    benchmark:
        benchmark_of("panel_loss/{comparison}-{member}-{recipe}-{seed}")
    wildcard_constraints:
        member=AS_IT_IS,
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        sources=source_names,
        models=source_models,
        kinds=member_kinds,
        reads=source_tokenizers,
        tokenizers=1 + len(settings.own_tokenizers(config)),
        drop=config["activations"]["drop"],
        across=config["corpus"]["sequence"]["attend_across_documents"],
        sequences=config["reruns"]["sequences"],
        batch=config["activations"]["batch"],
        version=VERSIONS["panel_loss"],
    script:
        "../scripts/panel_loss.py"


rule affinity:
    input:
        dictionary=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/dictionary.safetensors"
        ),
        validation=routed_shards,
    output:
        result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/experts/{source}/affinity.parquet"
        ),
    log:
        log_of("affinity/{comparison}-{member}-{recipe}-{seed}-{source}"),
    benchmark:
        benchmark_of("affinity/{comparison}-{member}-{recipe}-{seed}-{source}")
    wildcard_constraints:
        member=AS_IT_IS,
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        version=VERSIONS["experts"],
    script:
        "../scripts/affinity.py"


rule masked:
    input:
        dictionary=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/dictionary.safetensors"
        ),
        validation=routed_shards,
        affinity=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/experts/{source}/affinity.parquet"
        ),
        model=one_manifest,
        weights=one_weights,
        tokens=one_tokens,
    output:
        result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/experts/{source}/masked.parquet"
        ),
    log:
        log_of("masked/{comparison}-{member}-{recipe}-{seed}-{source}"),
    benchmark:
        benchmark_of("masked/{comparison}-{member}-{recipe}-{seed}-{source}")
    wildcard_constraints:
        member=AS_IT_IS,
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        device_map=one_device_map,
        across=config["corpus"]["sequence"]["attend_across_documents"],
        sequences=config["reruns"]["sequences"],
        batch=config["activations"]["batch"],
        version=VERSIONS["experts"],
    script:
        "../scripts/masked.py"


rule written:
    input:
        dictionary=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/dictionary.safetensors"
        ),
        validation=routed_shards,
        model=one_manifest,
        weights=one_weights,
        tokens=one_tokens,
    output:
        result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/experts/{source}/written.parquet"
        ),
    log:
        log_of("written/{comparison}-{member}-{recipe}-{seed}-{source}"),
    benchmark:
        benchmark_of("written/{comparison}-{member}-{recipe}-{seed}-{source}")
    wildcard_constraints:
        member=AS_IT_IS,
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        device_map=one_device_map,
        across=config["corpus"]["sequence"]["attend_across_documents"],
        sequences=config["reruns"]["sequences"],
        batch=config["activations"]["batch"],
        version=VERSIONS["experts"],
    script:
        "../scripts/written.py"
