# Tables -> plots -> one self-contained page; and what a run will cost, before it starts.


rule plot_training:
    input:
        histories=histories(),
        ngrams=result("models/ngrams.json"),
    output:
        report(plot_files("training"), category="Plots", labels={"plot": "training"}),
    log:
        log_of("plot_training"),
    benchmark:
        benchmark_of("plot_training")
    conda:
        "../envs/moediff.yaml"
    params:
        plots=config["plots"],
        version=VERSIONS["plots"],
    script:
        "../scripts/plot_training.py"


rule plot_fve:
    input:
        result("fve.json"),
    output:
        report(plot_files("fve"), category="Plots", labels={"plot": "variance explained"}),
    log:
        log_of("plot_fve"),
    benchmark:
        benchmark_of("plot_fve")
    conda:
        "../envs/moediff.yaml"
    params:
        plots=config["plots"],
        version=VERSIONS["plots"],
    script:
        "../scripts/plot_fve.py"


rule plot_features:
    input:
        fit_files("features.parquet", sources=2),
    output:
        norms=report(
            plot_files("relative-norm"), category="Plots", labels={"plot": "relative norm"}
        ),
        density=report(plot_files("density"), category="Plots", labels={"plot": "density"}),
    log:
        log_of("plot_features"),
    benchmark:
        benchmark_of("plot_features")
    conda:
        "../envs/moediff.yaml"
    params:
        plots=config["plots"],
        bounds=config["features"]["bounds"],
        version=VERSIONS["plots"],
    script:
        "../scripts/plot_features.py"


rule plot_panel:
    input:
        result("panel.json"),
    output:
        report(plot_files("panel"), category="Plots", labels={"plot": "panel"}),
    log:
        log_of("plot_panel"),
    benchmark:
        benchmark_of("plot_panel")
    conda:
        "../envs/moediff.yaml"
    params:
        plots=config["plots"],
        version=VERSIONS["plots"],
    script:
        "../scripts/plot_panel.py"


rule report:
    input:
        fve=result("fve.json"),
        metrics=fit_files("metrics.json"),
        manifests=manifests(),
        histories=histories(),
        ngrams=ngrams(),
        claims=result("claims.json"),
        classes=result("classes.json"),
        panels=result("panel.json"),
        plots=[result(f"plots/{name}.svg") for name in PLOTS],
    output:
        report(result("report.html"), category="Report", labels={"file": "report"}),
    log:
        log_of("report"),
    benchmark:
        benchmark_of("report")
    conda:
        "../envs/moediff.yaml"
    params:
        rows=rows_settings(),
        judged=whole_learners(),
        barely=CLAIMS["limits"]["nats_over_trigram"],
        version=VERSIONS["plots"],
    script:
        "../scripts/report.py"


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
        gpu=GPU,
    params:
        config={key: config[key] for key in config if key not in ("results", "plots", "device")},
        version=VERSIONS["budget"],
    script:
        "../scripts/budget.py"
