# Dictionary x validation activations -> numbers, one row a feature, what goes with each class, panels; models run again.


rule metrics:
    input:
        dictionary=of_fit("dictionary.safetensors"),
        early=of_fit("early.safetensors"),
        components=components_of,
        validation=member_shards("validation"),
        rows=row_manifests,
    output:
        metrics=of_fit("metrics.json"),
        features=of_fit("features.parquet"),
    log:
        log_of("metrics/{comparison}/{member}/{recipe}-{seed}"),
    benchmark:
        benchmark_of("metrics/{comparison}/{member}/{recipe}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("analysis", dictionary_weights),
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        features=config["features"],
        version=VERSIONS["metrics"],
    script:
        "../scripts/analysis/metrics.py"


rule gather_fve:
    input:
        files_of(FITS, "metrics.json"),
    output:
        report(
            result("fve.json"),
            category="Numbers",
            labels={"file": "fraction of variance explained"},
        ),
    log:
        log_of("gather_fve"),
    benchmark:
        benchmark_of("gather_fve")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        version=VERSIONS["metrics"],
    script:
        "../scripts/analysis/gather_fve.py"


rule linear_map:
    input:
        fit=linear_map_shards("fit"),
        validation=linear_map_shards("validation"),
    output:
        at("baseline", file="anchor.parquet"),
    log:
        log_of("linear_map/{comparison}/{member}"),
    benchmark:
        benchmark_of("linear_map/{comparison}/{member}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("components"),
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        version=VERSIONS["anchor"],
    script:
        "../scripts/analysis/linear_map.py"


rule similarity:
    input:
        validation=linear_map_shards("validation", "similarity.parquet"),
    output:
        at("baseline", file="similarity.parquet"),
    log:
        log_of("similarity/{comparison}/{member}"),
    benchmark:
        benchmark_of("similarity/{comparison}/{member}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("components"),
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        version=VERSIONS["similarity"],
    script:
        "../scripts/analysis/similarity.py"


rule moved:
    input:
        validation=moved_shards,
    output:
        at("baseline", file="moved.parquet"),
    log:
        log_of("moved/{comparison}/{member}"),
    benchmark:
        benchmark_of("moved/{comparison}/{member}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("components"),
    params:
        points=source_points,
        views=source_views,
        version=VERSIONS["moved"],
    script:
        "../scripts/analysis/moved.py"


rule divergence:
    input:
        models=two_predictions,
        weights=source_weights,
        tokens=tokens_of_sources,
    output:
        at("baseline", file="divergence.parquet"),
    log:
        log_of("divergence/{comparison}/{member}"),
    benchmark:
        benchmark_of("divergence/{comparison}/{member}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("reruns", source_model_weights),
    params:
        models=source_models,
        across=lambda wildcards: config["corpus"]["sequence"]["attend_across_documents"],
        sequences=config["reruns"]["sequences"],
        batch=config["activations"]["batch"],
        version=VERSIONS["divergence"],
    script:
        "../scripts/analysis/divergence.py"


rule deletion:
    input:
        dictionary=of_fit("dictionary.safetensors"),
        features=of_fit("features.parquet"),
        validation=pair_shards,
    output:
        of_fit("deletion.json"),
    log:
        log_of("deletion/{comparison}/{member}/{recipe}-{seed}"),
    benchmark:
        benchmark_of("deletion/{comparison}/{member}/{recipe}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("analysis", dictionary_weights),
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        version=VERSIONS["deletion"],
    script:
        "../scripts/analysis/deletion.py"


rule gather_classes:
    input:
        files_of(roles.with_sources(FITS, 2), "deletion.json"),
    output:
        report(
            result("classes.json"),
            category="Numbers",
            labels={"file": "features by class, and the variance that goes with them"},
        ),
    log:
        log_of("gather_classes"),
    benchmark:
        benchmark_of("gather_classes")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        version=VERSIONS["deletion"],
    script:
        "../scripts/analysis/gather_classes.py"


rule panel:
    input:
        dictionary=of_fit("dictionary.safetensors"),
        early=of_fit("early.safetensors"),
        features=of_fit("features.parquet"),
        validation=panel_shards,
    output:
        panel=of_fit("panel.json"),
        explained=of_fit("explained.parquet"),
    log:
        log_of("panel/{comparison}/{member}/{recipe}-{seed}"),
    benchmark:
        benchmark_of("panel/{comparison}/{member}/{recipe}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("analysis", dictionary_weights),
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        kinds=member_kinds,
        floor=config["features"]["user_floor"],
        version=VERSIONS["panel"],
    script:
        "../scripts/analysis/panel.py"


rule kinds:
    input:
        explained=of_fit("explained.parquet"),
        of_domains=of_fit("features.parquet"),
        similarity=at("baseline", file="similarity.parquet"),
    output:
        kinds=of_fit("kinds.json"),
        features=of_fit("differential.parquet"),
    log:
        log_of("kinds/{comparison}/{member}/{recipe}-{seed}"),
    benchmark:
        benchmark_of("kinds/{comparison}/{member}/{recipe}-{seed}")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        sources=source_names,
        kinds=member_kinds,
        version=VERSIONS["kinds"],
    script:
        "../scripts/analysis/kinds.py"


rule trend:
    input:
        dictionary=of_fit("dictionary.safetensors"),
        validation=dosed_shards,
    output:
        of_fit("trend.json"),
    log:
        log_of("trend/{comparison}/{member}/{recipe}-{seed}"),
    benchmark:
        benchmark_of("trend/{comparison}/{member}/{recipe}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("analysis", dictionary_weights),
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        kinds=member_kinds,
        doses=member_doses,
        version=VERSIONS["trend"],
    script:
        "../scripts/analysis/trend.py"


rule detectable:
    input:
        planted_tries,
    output:
        of_fit("detectable.json"),
    log:
        log_of("detectable/{comparison}/{member}/{recipe}-{seed}"),
    benchmark:
        benchmark_of("detectable/{comparison}/{member}/{recipe}-{seed}")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        version=VERSIONS["detectable"],
    script:
        "../scripts/analysis/detectable.py"


rule matching:
    input:
        dictionary=of_fit("dictionary.safetensors"),
        saes=sae_dictionaries,
        validation=member_shards("validation"),
        sae_validation=sae_shards,
    output:
        of_fit("recurs.parquet"),
    log:
        log_of("matching/{comparison}/{member}/{recipe}-{seed}"),
    benchmark:
        benchmark_of("matching/{comparison}/{member}/{recipe}-{seed}")
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
        sae_sources=sae_sources,
        sae_points=sae_points,
        sae_models=sae_models,
        version=VERSIONS["recurrence"],
    script:
        "../scripts/analysis/matching.py"


rule examples:
    input:
        dictionary=of_fit("dictionary.safetensors"),
        validation=member_shards("validation"),
        tokenizer=first_tokenizer,
    output:
        of_fit("examples.parquet"),
    log:
        log_of("examples/{comparison}/{member}/{recipe}-{seed}"),
    benchmark:
        benchmark_of("examples/{comparison}/{member}/{recipe}-{seed}")
    wildcard_constraints:
        member=AS_IT_IS,
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("analysis", dictionary_weights),
    params:
        points=source_points,
        version=VERSIONS["examples"],
    script:
        "../scripts/analysis/examples.py"


rule gather_panels:
    input:
        files_of(roles.panels(config, FITS), "panel.json"),
    output:
        report(
            result("panel.json"),
            category="Numbers",
            labels={"file": "what every model of one kind uses and none of the other"},
        ),
    log:
        log_of("gather_panels"),
    benchmark:
        benchmark_of("gather_panels")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        version=VERSIONS["panel"],
    script:
        "../scripts/analysis/gather_panels.py"


rule gather_kinds:
    input:
        kinds=files_of(roles.panels(config, FITS), "kinds.json"),
        detectable=files_of(PLANTED_FITS, "detectable.json"),
        trends=files_of(roles.dosed(config, FITS), "trend.json"),
    output:
        report(
            result("kinds.json"),
            category="Numbers",
            labels={"file": "how well kinds divide the models of a panel"},
        ),
    log:
        log_of("gather_kinds"),
    benchmark:
        benchmark_of("gather_kinds")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        version=VERSIONS["kinds"],
    script:
        "../scripts/analysis/gather_kinds.py"


if "corpus" in config:

    # What a panel could have seen: an effect of known size planted into its rows, its dictionary fitted anew.
    rule plant:
        input:
            fit=member_shards("fit"),
            validation=panel_shards,
            fit_tokens=token_shards("fit"),
            validation_tokens=token_shards("validation"),
            tokenizer=at("tokenizer"),
            vocabulary=at("vocabulary"),
        output:
            at("planted_try"),
        log:
            log_of("plant/{comparison}/{member}/{recipe}-{seed}/{planted}"),
        benchmark:
            benchmark_of("plant/{comparison}/{member}/{recipe}-{seed}/{planted}")
        wildcard_constraints:
            planted=one_of(TRIES),
        conda:
            "../envs/moediff.yaml"
        threads: THREADS
        resources:
            **needs("dictionaries", dictionary_weights, fit_work),
        params:
            sources=source_names,
            points=source_points,
            kinds=member_kinds,
            recipe=lambda wildcards: settings_of(fit_of(wildcards))["recipe"],
            tried=lambda wildcards: TRIES[wildcards.planted],
            floor=config["features"]["user_floor"],
            version=VERSIONS["detectable"],
        script:
            "../scripts/analysis/plant.py"

    rule splice:
        input:
            dictionary=of_fit("dictionary.safetensors"),
            features=of_fit("features.parquet"),
            models=source_manifests,
            weights=source_weights,
            points=source_measured,
            tokens=tokens_again,
        output:
            of_fit("splicing.parquet"),
        log:
            log_of("splice/{comparison}/{member}/{recipe}-{seed}"),
        benchmark:
            benchmark_of("splice/{comparison}/{member}/{recipe}-{seed}")
        wildcard_constraints:
            member=AS_IT_IS,
        conda:
            "../envs/moediff.yaml"
        threads: THREADS
        resources:
            **needs("reruns", source_model_weights),
        params:
            sources=source_names,
            models=source_models,
            reads=source_tokenizers,
            tokenizers=1 + len(settings.own_tokenizers(config)),
            drop=source_drop,
            across=config["corpus"]["sequence"]["attend_across_documents"],
            sequences=config["reruns"]["sequences"],
            batch=config["activations"]["batch"],
            frozen=config["activations"]["routing"] != "none",
            version=VERSIONS["splicing"],
        script:
            "../scripts/analysis/splice.py"

    rule panel_loss:
        input:
            dictionary=of_fit("dictionary.safetensors"),
            explained=of_fit("explained.parquet"),
            models=source_manifests,
            weights=source_weights,
            points=source_measured,
            tokens=tokens_again,
        output:
            of_fit("panel_loss.json"),
        log:
            log_of("panel_loss/{comparison}/{member}/{recipe}-{seed}"),
        benchmark:
            benchmark_of("panel_loss/{comparison}/{member}/{recipe}-{seed}")
        wildcard_constraints:
            member=AS_IT_IS,
        conda:
            "../envs/moediff.yaml"
        threads: THREADS
        resources:
            **needs("reruns", source_model_weights),
        params:
            sources=source_names,
            models=source_models,
            kinds=member_kinds,
            reads=source_tokenizers,
            tokenizers=1 + len(settings.own_tokenizers(config)),
            drop=source_drop,
            across=config["corpus"]["sequence"]["attend_across_documents"],
            sequences=config["reruns"]["sequences"],
            batch=config["activations"]["batch"],
            version=VERSIONS["panel_loss"],
        script:
            "../scripts/analysis/panel_loss.py"
