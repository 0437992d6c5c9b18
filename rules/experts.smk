# Experts: how few carry the routing and the prediction; joined to features: what firing tells of them, what each wrote.


rule concentration:
    input:
        model=model_files,
        validation=routed_split,
    output:
        record=at("moe", file="routing.json"),
        shares=at("moe", file="shares.parquet"),
        pairs=at("moe", file="pairs.parquet"),
    log:
        log_of("concentration/{model}-{seed}"),
    benchmark:
        benchmark_of("concentration/{model}-{seed}")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("routing", model_weights),
    params:
        shuffles=config["routing"]["shuffles"],
        tokens=config["routing"]["tokens"],
        version=VERSIONS["routing"],
    script:
        "../scripts/experts/concentration.py"


rule lens:
    input:
        model=model_files,
        tokens=own_tokens("validation"),
    output:
        at("moe", file="lens.parquet"),
    log:
        log_of("lens/{model}-{seed}"),
    benchmark:
        benchmark_of("lens/{model}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("reruns", model_weights),
    params:
        device_map=own_device_map,
        across=config["corpus"]["sequence"]["attend_across_documents"],
        sequences=config["reruns"]["sequences"],
        batch=config["activations"]["batch"],
        positions=config["lens"]["positions"],
        version=VERSIONS["lens"],
    script:
        "../scripts/experts/lens.py"


rule fewer_experts:
    input:
        model=model_files,
        tokens=own_tokens("validation"),
    output:
        at("moe", file="fewer_experts.parquet"),
    log:
        log_of("fewer_experts/{model}-{seed}"),
    benchmark:
        benchmark_of("fewer_experts/{model}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("reruns", model_weights),
    params:
        device_map=own_device_map,
        across=config["corpus"]["sequence"]["attend_across_documents"],
        sequences=config["reruns"]["sequences"],
        batch=config["activations"]["batch"],
        each=config["fewer_experts"]["each"],
        version=VERSIONS["fewer_experts"],
    script:
        "../scripts/experts/fewer_experts.py"


rule usage:
    input:
        model=model_files,
        tokens=own_tokens("fit"),
    output:
        at("moe", file="usage.parquet"),
    log:
        log_of("usage/{model}-{seed}"),
    benchmark:
        benchmark_of("usage/{model}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("reruns", model_weights),
    params:
        device_map=own_device_map,
        across=config["corpus"]["sequence"]["attend_across_documents"],
        sequences=config["reruns"]["sequences"],
        batch=config["activations"]["batch"],
        renormalise=config["prune"]["renormalise"],
        version=VERSIONS["prune"],
    script:
        "../scripts/experts/usage.py"


rule prune:
    input:
        model=model_files,
        tokens=own_tokens("validation"),
        usage=at("moe", file="usage.parquet"),
    output:
        at("moe", file="prune.parquet"),
    log:
        log_of("prune/{model}-{seed}"),
    benchmark:
        benchmark_of("prune/{model}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("reruns", model_weights),
    params:
        device_map=own_device_map,
        across=config["corpus"]["sequence"]["attend_across_documents"],
        sequences=config["reruns"]["sequences"],
        batch=config["activations"]["batch"],
        prune=config["prune"],
        version=VERSIONS["prune"],
    script:
        "../scripts/experts/prune.py"


rule pruned_model:
    input:
        model=model_files,
        usage=at("moe", file="usage.parquet"),
        costs=at("moe", file="prune.parquet"),
    output:
        model=at("pruned", file="model.safetensors"),
        config=at("pruned", file="config.json"),
        card=at("pruned", file="README.md"),
    log:
        log_of("pruned_model/{model}-{seed}/{score}-{keep}"),
    benchmark:
        benchmark_of("pruned_model/{model}-{seed}/{score}-{keep}")
    wildcard_constraints:
        score=one_of(config["prune"]["scores"]),
        keep=one_of(map(str, config["prune"]["keep"])),
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("reruns", model_weights),
    params:
        device_map=own_device_map,
        protect=config["prune"]["protect"],
        version=VERSIONS["prune"],
    script:
        "../scripts/experts/pruned_model.py"


rule gather_routing:
    input:
        of_moes("routing.json"),
    output:
        result("routing.json"),
    log:
        log_of("gather_routing"),
    benchmark:
        benchmark_of("gather_routing")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        version=VERSIONS["routing"],
    script:
        "../scripts/experts/gather_routing.py"


for gathered, table, stage in (
    ("expert_lens", "lens.parquet", "lens"),
    ("fewer_experts", "fewer_experts.parquet", "fewer_experts"),
    ("prune", "prune.parquet", "prune"),
):

    rule:
        name:
            f"gather_{stage}"
        input:
            of_moes(table),
        output:
            result(f"{gathered}.json"),
        log:
            log_of(f"gather_{stage}"),
        benchmark:
            benchmark_of(f"gather_{stage}")
        conda:
            "../envs/moediff.yaml"
        resources:
            **needs("tables"),
        params:
            version=VERSIONS[stage],
        script:
            f"../scripts/experts/gather_{stage}.py"


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


rule experts_by_class:
    input:
        affinity=of_source("affinity.parquet"),
        features=of_fit("features.parquet"),
    output:
        of_source("by_class.json"),
    log:
        log_of("experts_by_class/{comparison}/{member}/{recipe}-{seed}/{source}"),
    benchmark:
        benchmark_of("experts_by_class/{comparison}/{member}/{recipe}-{seed}/{source}")
    wildcard_constraints:
        member=AS_IT_IS,
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        version=VERSIONS["experts"],
    script:
        "../scripts/experts/experts_by_class.py"


rule pruned_features:
    input:
        dictionary=of_fit("dictionary.safetensors"),
        features=of_fit("features.parquet"),
        validation=routed_shards,
        usage=one_usage,
        model=one_manifest,
        weights=one_weights,
        tokens=one_tokens,
    output:
        table=of_source("pruned.parquet"),
        by_class=of_source("pruned_by_class.json"),
    log:
        log_of("pruned_features/{comparison}/{member}/{recipe}-{seed}/{source}"),
    benchmark:
        benchmark_of("pruned_features/{comparison}/{member}/{recipe}-{seed}/{source}")
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
        prune=config["prune"],
        version=VERSIONS["prune"],
    script:
        "../scripts/experts/pruned_features.py"
