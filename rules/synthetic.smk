# Worlds of known truth -> how well each method names what one kind of model alone has. Not part of `all`.


rule planted:
    output:
        table=result("planted.parquet"),
        summary=result("planted.json"),
    log:
        log_of("planted"),
    benchmark:
        benchmark_of("planted")
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("synthetic"),
    params:
        settings=config["planted"],
        recipes=PLANTED_RECIPES,
        version=VERSIONS["planted"],
    script:
        "../scripts/synthetic/planted.py"
