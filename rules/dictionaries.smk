# Activation shards -> SAE or crosscoder, and the principal components it must beat.


rule principal_components:
    input:
        member_shards("fit"),
    output:
        at("baseline", file="components{normalised}.safetensors"),
    log:
        log_of("principal_components{normalised}/{comparison}/{member}"),
    benchmark:
        benchmark_of("principal_components{normalised}/{comparison}/{member}")
    wildcard_constraints:
        normalised=one_of(NORMALISED),
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("components"),
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        version=VERSIONS["baselines"],
    script:
        "../scripts/dictionaries/principal_components.py"


rule fit:
    input:
        member_shards("fit"),
    output:
        of_fit("dictionary.safetensors"),
        of_fit("early.safetensors"),
        of_fit("history.parquet"),
    log:
        log_of("fit/{comparison}/{member}/{recipe}-{seed}"),
    benchmark:
        benchmark_of("fit/{comparison}/{member}/{recipe}-{seed}")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("dictionaries", dictionary_weights, fit_work),
    params:
        sources=source_names,
        points=source_points,
        views=source_views,
        fits=fit_settings,
        version=VERSIONS["dictionaries"],
    script:
        "../scripts/dictionaries/fit.py"


# The same job for several dictionaries over the same rows (`dictionaries_per_job`).
for number, together in enumerate(SHARED):

    rule:
        name:
            f"dictionaries_{number}"
        input:
            shards_of(together[0].member, "fit"),
        output:
            [path for fit in together for path in dictionary_files(fit)],
        log:
            log_of(f"fit/{number}-of-{len(SHARED)}-shared"),
        benchmark:
            benchmark_of(f"fit/{number}-of-{len(SHARED)}-shared")
        conda:
            "../envs/moediff.yaml"
        threads: THREADS
        resources:
            **needs(
                "dictionaries",
                lambda wildcards, together=together: together_weights(together),
                lambda wildcards, together=together: together_work(together),
            ),
        params:
            sources=[source.name for source in together[0].member.sources],
            points=[source.point for source in together[0].member.sources],
            views=[source.view for source in together[0].member.sources],
            fits=[settings_of(fit) for fit in together],
            version=VERSIONS["dictionaries"],
        script:
            "../scripts/dictionaries/fit.py"

    workflow.ruleorder(f"dictionaries_{number}", "fit")


# Checkpoints of interrupted runs; finished results do not need them.
rule clean_state:
    log:
        log_of("clean_state"),
    conda:
        "../envs/moediff.yaml"
    params:
        state=at("state"),
    shell:
        "rm -rf {params.state:q} 2> {log:q}"
