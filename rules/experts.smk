# Experts joined to features: what firing tells of them, what each wrote, what is lost without one.


rule affinity:
    input:
        dictionary=of_fit("dictionary.safetensors"),
        validation=routed_shards,
    output:
        of_source("affinity.parquet"),
    log:
        log_of("affinity/{comparison}/{member}/{recipe}-{seed}/{source}"),
    benchmark:
        benchmark_of("affinity/{comparison}/{member}/{recipe}-{seed}/{source}")
    wildcard_constraints:
        member=AS_IT_IS,
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("analysis", dictionary_weights),
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        version=VERSIONS["experts"],
    script:
        "../scripts/experts/affinity.py"


rule masking:
    input:
        dictionary=of_fit("dictionary.safetensors"),
        validation=routed_shards,
        affinity=of_source("affinity.parquet"),
        model=one_manifest,
        weights=one_weights,
        tokens=one_tokens,
    output:
        of_source("masked.parquet"),
    log:
        log_of("masking/{comparison}/{member}/{recipe}-{seed}/{source}"),
    benchmark:
        benchmark_of("masking/{comparison}/{member}/{recipe}-{seed}/{source}")
    wildcard_constraints:
        member=AS_IT_IS,
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("reruns", one_model_weights),
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
        "../scripts/experts/masking.py"


rule attribution:
    input:
        dictionary=of_fit("dictionary.safetensors"),
        validation=routed_shards,
        model=one_manifest,
        weights=one_weights,
        tokens=one_tokens,
    output:
        of_source("written.parquet"),
    log:
        log_of("attribution/{comparison}/{member}/{recipe}-{seed}/{source}"),
    benchmark:
        benchmark_of("attribution/{comparison}/{member}/{recipe}-{seed}/{source}")
    wildcard_constraints:
        member=AS_IT_IS,
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("reruns", one_model_weights),
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
        "../scripts/experts/attribution.py"
