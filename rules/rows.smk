# Rows that other code wrote -> activation shards.


rule measure_rows:
    input:
        rows_files,
    output:
        result("activations/{model}/seed-{seed}/points.json"),
    log:
        log_of("measure_rows/{model}-{seed}"),
    benchmark:
        benchmark_of("measure_rows/{model}-{seed}")
    wildcard_constraints:
        model=one_of(FOREIGN),
    conda:
        "../envs/moediff.yaml"
    params:
        path=rows_path,
        array=rows_array,
        dtype=config["activations"]["dtype"],
        version=VERSIONS["activations"],
    script:
        "../scripts/measure_rows.py"


rule rows:
    input:
        rows=rows_files,
        measured=result("activations/{model}/seed-{seed}/points.json"),
    output:
        shard_file(),
    log:
        log_of("rows/{model}-{seed}/{split}-{shard}"),
    benchmark:
        benchmark_of("rows/{model}-{seed}/{split}-{shard}")
    wildcard_constraints:
        model=one_of(FOREIGN),
    conda:
        "../envs/moediff.yaml"
    params:
        path=rows_path,
        array=rows_array,
        domains=rows_domains,
        dtype=config["activations"]["dtype"],
        chunk_rows=config["activations"]["chunk_rows"],
        version=VERSIONS["activations"],
    script:
        "../scripts/rows.py"
