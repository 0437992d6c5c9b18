# Findings of the primary analysis, and of the experts of its MoE -> verdicts on claims fixed before a study runs.


rule judge:
    input:
        metrics=files_of(roles.pairs(FITS), "metrics.json"),
        features=files_of(roles.pairs(FITS), "features.parquet"),
        deletion=files_of(roles.pairs(FITS), "deletion.json"),
        panels=files_of(PRIMARY_PANELS, "panel.json"),
        panel_metrics=files_of(PRIMARY_PANELS, "metrics.json"),
        panel_features=files_of(PRIMARY_PANELS, "features.parquet"),
        detectable=files_of([f for f in PLANTED_FITS if f in PRIMARY_PANELS], "detectable.json"),
        known_panels=files_of(KNOWN_PANELS, "panel.json"),
        classes=result("classes.json"),
        panel_losses=files_of(PRIMARY_PANELS, "panel_loss.json") if "corpus" in config else [],
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
    # It reads the note of fixed claims, which lies where the command runs.
    localrule: True
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("tables"),
    params:
        claims=CLAIMS,
        analysis=roles.primary_analysis(config, PRIMARY),
        whole=roles.whole_learners(config),
        penalties=PENALTIES_FAULT,
        version=VERSIONS["claims"],
    script:
        "../scripts/claims/judge.py"


if "corpus" in config:

    rule judge_experts:
        input:
            lens=of_judged_moe("lens.parquet"),
            fewer_experts=of_judged_moe("fewer_experts.parquet"),
            routing=of_judged_moe("routing.json"),
            ngrams=ngrams(),
        output:
            report(
                result("expert_claims.json"),
                category="Numbers",
                labels={"file": "claims about experts and their verdicts"},
            ),
        log:
            log_of("judge_experts"),
        benchmark:
            benchmark_of("judge_experts")
        # As `judge`.
        localrule: True
        conda:
            "../envs/moediff.yaml"
        resources:
            **needs("tables"),
        params:
            claims=EXPERT_CLAIMS,
            version=VERSIONS["claims"],
        script:
            "../scripts/claims/judge_experts.py"
