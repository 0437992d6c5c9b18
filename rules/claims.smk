# Findings of the primary analysis -> verdicts on claims fixed before a study runs.


rule judge:
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
        log_of("judge"),
    benchmark:
        benchmark_of("judge")
    conda:
        "../envs/moediff.yaml"
    params:
        claims=CLAIMS,
        analysis=analysis(),
        whole=whole_learners(),
        penalties=penalties_fault(),
        version=VERSIONS["claims"],
    script:
        "../scripts/claims/judge.py"
