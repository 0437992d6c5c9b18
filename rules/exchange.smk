# Dictionary -> files that other libraries read, and a folder for the Hub. Only built when named.

EXPORTS = {
    "saelens": ("sae_weights.safetensors", "cfg.json"),
    "crosscoder": ("model.safetensors", "config.json"),
    "hub": ("dictionary.safetensors", "config.json", "README.md"),
}
for layout, names in EXPORTS.items():

    rule:
        name:
            f"export_{layout}"
        input:
            dictionary=exported(layout),
            # For the numbers in the model card.
            metrics=of_fit("metrics.json") if layout == "hub" else [],
        output:
            [result(f"exports/{layout}/{FIT}/{name}") for name in names],
        log:
            log_of(f"export/{layout}-{{comparison}}-{{member}}-{{recipe}}-{{seed}}"),
        benchmark:
            benchmark_of(f"export/{layout}-{{comparison}}-{{member}}-{{recipe}}-{{seed}}")
        conda:
            "../envs/moediff.yaml"
        params:
            layout=layout,
            version=VERSIONS["exports"],
        script:
            "../scripts/exchange/export.py"
