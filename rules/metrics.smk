# Dictionary x validation activations -> numbers, one row a feature, what goes with each class, panels; fve.json, classes.json, panel.json.


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
        early=result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/early.safetensors"),
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
        views=source_views,
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


rule anchor:
    input:
        fit=anchor_shards("fit"),
        validation=anchor_shards("validation"),
    output:
        result("baselines/{comparison}/{member}/anchor.parquet"),
    log:
        log_of("anchor/{comparison}-{member}"),
    benchmark:
        benchmark_of("anchor/{comparison}-{member}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        version=VERSIONS["anchor"],
    script:
        "../scripts/anchor.py"


rule deletion:
    input:
        dictionary=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/dictionary.safetensors"
        ),
        features=result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/features.parquet"),
        validation=pair_shards,
    output:
        result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/deletion.json"),
    log:
        log_of("deletion/{comparison}-{member}-{recipe}-{seed}"),
    benchmark:
        benchmark_of("deletion/{comparison}-{member}-{recipe}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        version=VERSIONS["deletion"],
    script:
        "../scripts/deletion.py"


rule classes:
    input:
        fit_files("deletion.json", sources=2),
    output:
        report(
            result("classes.json"),
            category="Numbers",
            labels={"file": "features by class, and the variance that goes with them"},
        ),
    log:
        log_of("classes"),
    benchmark:
        benchmark_of("classes")
    conda:
        "../envs/moediff.yaml"
    params:
        version=VERSIONS["deletion"],
    script:
        "../scripts/classes.py"


rule panel:
    input:
        dictionary=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/dictionary.safetensors"
        ),
        early=result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/early.safetensors"),
        features=result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/features.parquet"),
        validation=panel_shards,
    output:
        panel=result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/panel.json"),
        explained=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/explained.parquet"
        ),
    log:
        log_of("panel/{comparison}-{member}-{recipe}-{seed}"),
    benchmark:
        benchmark_of("panel/{comparison}-{member}-{recipe}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        kinds=member_kinds,
        floor=config["features"]["user_floor"],
        version=VERSIONS["panel"],
    script:
        "../scripts/panel.py"


rule recurrence:
    input:
        dictionary=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/dictionary.safetensors"
        ),
        saes=sae_dictionaries,
        validation=member_shards("validation"),
        sae_validation=sae_shards,
    output:
        result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/recurs.parquet"),
    log:
        log_of("recurrence/{comparison}-{member}-{recipe}-{seed}"),
    benchmark:
        benchmark_of("recurrence/{comparison}-{member}-{recipe}-{seed}")
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
        sae_sources=sae_sources,
        sae_points=sae_points,
        sae_models=sae_models,
        version=VERSIONS["recurrence"],
    script:
        "../scripts/recurrence.py"


rule examples:
    input:
        dictionary=result(
            "dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/dictionary.safetensors"
        ),
        validation=member_shards("validation"),
        tokenizer=first_tokenizer,
    output:
        result("dictionaries/{comparison}/{member}/{recipe}/seed-{seed}/examples.parquet"),
    log:
        log_of("examples/{comparison}-{member}-{recipe}-{seed}"),
    benchmark:
        benchmark_of("examples/{comparison}-{member}-{recipe}-{seed}")
    wildcard_constraints:
        member=AS_IT_IS,
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        gpu=GPU,
    params:
        points=source_points,
        version=VERSIONS["examples"],
    script:
        "../scripts/examples.py"


rule panels:
    input:
        panel_files("panel.json"),
    output:
        report(
            result("panel.json"),
            category="Numbers",
            labels={"file": "what every model of one kind uses and none of the other"},
        ),
    log:
        log_of("panels"),
    benchmark:
        benchmark_of("panels")
    conda:
        "../envs/moediff.yaml"
    params:
        version=VERSIONS["panel"],
    script:
        "../scripts/panels.py"


rule claims:
    input:
        metrics=pair_files("metrics.json"),
        features=pair_files("features.parquet"),
        deletion=pair_files("deletion.json"),
        panels=primary_panel_files("panel.json"),
        panel_metrics=primary_panel_files("metrics.json"),
        known_panels=known_panel_files("panel.json"),
        classes=result("classes.json"),
        panel_losses=primary_panel_files("panel_loss.json") if "corpus" in config else [],
        histories=histories(),
        ngrams=ngrams(),
    output:
        report(
            result("claims.json"),
            category="Numbers",
            labels={"file": "claims and their verdicts"},
        ),
    log:
        log_of("claims"),
    benchmark:
        benchmark_of("claims")
    conda:
        "../envs/moediff.yaml"
    params:
        claims=CLAIMS,
        analysis=analysis(),
        whole=whole_learners(),
        penalties=penalties_fault(),
        version=VERSIONS["claims"],
    script:
        "../scripts/claims.py"
