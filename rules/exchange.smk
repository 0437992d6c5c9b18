# Dictionary -> files that other libraries read, and a folder for the Hub. Only built when named.

EXPORTS = {
    "saelens": ("sae_weights.safetensors", "cfg.json"),
    "crosscoder": ("model.safetensors", "config.json"),
    "hub": ("dictionary.safetensors", "config.json", "README.md"),
}
for form, names in EXPORTS.items():

    rule:
        name:
            f"export_{form}"
        input:
            dictionary=exported(form),
            # For the numbers in the model card.
            metrics=of_fit("metrics.json") if form == "hub" else [],
        output:
            [at("export", layout=form, file=name) for name in names],
        log:
            log_of(f"export/{form}/{{comparison}}/{{member}}/{{recipe}}-{{seed}}"),
        benchmark:
            benchmark_of(f"export/{form}/{{comparison}}/{{member}}/{{recipe}}-{{seed}}")
        conda:
            "../envs/moediff.yaml"
        resources:
            **needs("exports", dictionary_weights),
        params:
            layout=form,
            version=VERSIONS["exports"],
        script:
            "../scripts/exchange/export.py"
