# Tables -> plots -> one self-contained page; and what a run will cost, before it starts.


rule plot_training:
    input:
        histories=histories(),
        ngrams=at("ngrams"),
    output:
        report(plot_files("training"), category="Plots", labels={"plot": "training"}),
    log:
        log_of("plot_training"),
    benchmark:
        benchmark_of("plot_training")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        plots=config["plots"],
        version=VERSIONS["plots"],
    script:
        "../scripts/report/plot_training.py"


rule plot_fve:
    input:
        result("fve.json"),
    output:
        bars=report(plot_files("fve"), category="Plots", labels={"plot": "variance explained"}),
        frontier=report(
            plot_files("frontier"),
            category="Plots",
            labels={"plot": "variance explained against L0"},
        ),
    log:
        log_of("plot_fve"),
    benchmark:
        benchmark_of("plot_fve")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        member=PAIR.member.name if PAIR else FITS[0].member.name,
        plots=config["plots"],
        version=VERSIONS["plots"],
    script:
        "../scripts/report/plot_fve.py"


rule plot_features:
    input:
        features=pair_file("features.parquet"),
        null=null_features(),
    output:
        norms=report(
            plot_files("relative-norm"), category="Plots", labels={"plot": "relative norm"}
        ),
        density=report(plot_files("density"), category="Plots", labels={"plot": "density"}),
        scaling=report(plot_files("scaling"), category="Plots", labels={"plot": "latent scaling"}),
    log:
        log_of("plot_features"),
    benchmark:
        benchmark_of("plot_features")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        dictionary=(
            [PAIR.member.comparison, PAIR.member.name, PAIR.recipe, PAIR.seed] if PAIR else []
        ),
        bounds=config["features"]["bounds"],
        plots=config["plots"],
        version=VERSIONS["plots"],
    script:
        "../scripts/report/plot_features.py"


rule plot_classes:
    input:
        result("classes.json"),
    output:
        report(plot_files("classes"), category="Plots", labels={"plot": "classes and error rates"}),
    log:
        log_of("plot_classes"),
    benchmark:
        benchmark_of("plot_classes")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        recipe=PAIR.recipe if PAIR else FITS[0].recipe,
        plots=config["plots"],
        version=VERSIONS["plots"],
    script:
        "../scripts/report/plot_classes.py"


rule plot_domains:
    input:
        pair_file("splicing.parquet"),
    output:
        report(plot_files("domains"), category="Plots", labels={"plot": "loss by domain"}),
    log:
        log_of("plot_domains"),
    benchmark:
        benchmark_of("plot_domains")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        plots=config["plots"],
        version=VERSIONS["plots"],
    script:
        "../scripts/report/plot_domains.py"


rule plot_affinity:
    input:
        features=pair_file("features.parquet"),
        affinity=routed_file("affinity.parquet"),
    output:
        report(plot_files("affinity"), category="Plots", labels={"plot": "experts and features"}),
    log:
        log_of("plot_affinity"),
    benchmark:
        benchmark_of("plot_affinity")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        plots=config["plots"],
        version=VERSIONS["plots"],
    script:
        "../scripts/report/plot_affinity.py"


rule plot_panel:
    input:
        panel_json,
    output:
        report(plot_files("panel"), category="Plots", labels={"plot": "panel"}),
    log:
        log_of("plot_panel"),
    benchmark:
        benchmark_of("plot_panel")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        plots=config["plots"],
        version=VERSIONS["plots"],
    script:
        "../scripts/report/plot_panel.py"


rule plot_planted:
    input:
        result("planted.parquet"),
    output:
        report(plot_files("planted"), category="Plots", labels={"plot": "planted truth"}),
    log:
        log_of("plot_planted"),
    benchmark:
        benchmark_of("plot_planted")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        plots=config["plots"],
        version=VERSIONS["plots"],
    script:
        "../scripts/report/plot_planted.py"


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
        plots=[at("plot", chart=name, format="svg") for name in PLOTS],
        features=browsed_files("features.parquet"),
        examples=browsed_files("examples.parquet"),
        recurs=pair_file("recurs.parquet") if PAIR and roles.saes_of(config, FITS, PAIR) else [],
        experts=routed_file("affinity.parquet"),
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
        rows=rows_settings(),
        judged=roles.whole_learners(config),
        barely=CLAIMS["limits"]["nats_over_trigram"],
        version=VERSIONS["plots"],
    script:
        "../scripts/report/report.py"


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
        version=VERSIONS["budget"],
    script:
        "../scripts/report/budget.py"
