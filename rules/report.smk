# Tables -> plots -> one self-contained page; and what a run will cost, before it starts.


# The charts of CHARTS, those that are drawn together in one job.
for together in CHART_JOBS:

    rule:
        name:
            f"charts_{together}"
        input:
            **chart_files(together),
        output:
            [
                report(plot_files(name), category="Plots", labels={"plot": CHARTS[name].title})
                for name in charts_of(together)
            ],
        log:
            log_of(f"charts/{together}"),
        benchmark:
            benchmark_of(f"charts/{together}")
        conda:
            "../envs/moediff.yaml"
        resources:
            **needs("tables"),
        params:
            charts=charts_of(together),
            settings=chart_settings(together),
            plots=config["plots"],
            version=VERSIONS["plots"],
        script:
            "../scripts/report/charts.py"


# A chart of what this config does not compute is refused.
rule no_chart:
    input:
        lambda wildcards: refuse(at("plot", **wildcards), lacking(wildcards.chart)),
    output:
        at("plot"),
    wildcard_constraints:
        chart=one_of(name for name in CHARTS if lacking(name)),


# The figures of one dictionary that its own features draw.
rule figures:
    input:
        features=[of_fit("features.parquet")],
        null_features=null_of,
    output:
        of_fit("figures.json"),
    log:
        log_of("figures/{comparison}/{member}/{recipe}-{seed}"),
    benchmark:
        benchmark_of("figures/{comparison}/{member}/{recipe}-{seed}")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        charts=lambda wildcards: of_each(len(member_of(wildcards).sources)),
        settings=lambda wildcards: settings_of_chart(fit_of(wildcards)),
        plots=config["plots"],
        version=VERSIONS["plots"],
    script:
        "../scripts/report/figures.py"


rule report:
    input:
        fve=result("fve.json"),
        metrics=files_of(FITS, "metrics.json"),
        manifests=manifests(),
        histories=histories(),
        ngrams=ngrams(),
        claims=result("claims.json"),
        classes=result("classes.json"),
        panels=result("panel.json"),
        kinds=KINDS_FILES,
        plots=[at("plot", chart=name, format="svg") for name in PLOTS],
        features=files_of(SHOWN, "features.parquet"),
        examples=example_files(),
        figures=figure_files(),
        recurs=pair_file("recurs.parquet") if PAIR and roles.saes_of(config, FITS, PAIR) else [],
        experts=routed_files("affinity.parquet"),
        splicing=pair_file("splicing.parquet") if RERUN else [],
        moved=moved_file(),
        divergence=divergence_file(),
    output:
        report(result("report.html"), category="Report", labels={"file": "report"}),
    log:
        log_of("report"),
    benchmark:
        benchmark_of("report")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        study=of_study(),
        rows=rows_settings(),
        judged=roles.whole_learners(config),
        barely=CLAIMS["limits"]["nats_over_trigram"],
        version=VERSIONS["plots"],
    script:
        "../scripts/report/report.py"


# What the run took, stage by stage. Its figures are another run's at every run, so that the report, whose bytes
# are not, only points to it; it is made last, when all benchmarks are there.
rule stages:
    input:
        result("report.html"),
    output:
        table=at("stages", format="json"),
        page=at("stages", format="html"),
    log:
        log_of("stages"),
    benchmark:
        benchmark_of("stages")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        version=VERSIONS["plots"],
    script:
        "../scripts/report/stages.py"


# Histories as TensorBoard reads them; made where its name is asked for.
rule tensorboard:
    input:
        event_histories,
    output:
        [at("events", run=run) for run in RUNS],
    log:
        log_of("tensorboard"),
    benchmark:
        benchmark_of("tensorboard")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        version=VERSIONS["plots"],
    script:
        "../scripts/report/events.py"


rule budget:
    input:
        all_rows_files(),
    output:
        result("budget.json"),
    log:
        log_of("budget"),
    benchmark:
        benchmark_of("budget")
    conda:
        "../envs/moediff.yaml"
    threads: THREADS
    resources:
        **needs("training"),
    params:
        config={key: config[key] for key in config if key not in ("results", "plots", "device")},
        primary=PRIMARY,
        places=profiles.places(Path(workflow.basedir) / "profiles"),
        version=VERSIONS["budget"],
    script:
        "../scripts/report/budget.py"


if "corpus" in config:

    rule text_page:
        input:
            model=model_files,
            tokens=own_tokens("validation"),
            tokenizer=at("tokenizer"),
            vocabulary=at("vocabulary"),
        output:
            at("moe", file="text.html"),
        log:
            log_of("text_page/{model}-{seed}"),
        benchmark:
            benchmark_of("text_page/{model}-{seed}")
        conda:
            "../envs/moediff.yaml"
        threads: THREADS
        resources:
            **needs("reruns", model_weights),
        params:
            device_map=own_device_map,
            own_tokenizer=lambda wildcards: (wildcards.model in settings.own_tokenizers(config)),
            across=config["corpus"]["sequence"]["attend_across_documents"],
            sequences=config["lens"]["page_sequences"],
            version=VERSIONS["lens"],
        script:
            "../scripts/report/text_page.py"
