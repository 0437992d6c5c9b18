# A checkpoint of a folder or the Hub -> its manifest.


rule load:
    input:
        checkpoint_files,
        vocabulary=at("vocabulary"),
        tokenizer=tokenizer_beside(),
    output:
        manifest=at("model", file="model.json"),
    log:
        log_of("load/{model}-{seed}"),
    benchmark:
        benchmark_of("load/{model}-{seed}")
    wildcard_constraints:
        model=one_of(LOADED),
    conda:
        "../envs/moediff.yaml"
    resources:
        **needs("loading", model_weights),
    params:
        settings=model_settings,
        length=config["corpus"]["sequence"]["length"],
        version=VERSIONS["models"],
    script:
        "../scripts/models/load.py"
