# What decides a training run, and the files that it leaves.


def trial_files(wildcards):
    """The trials of a sweep over peak learning rates; none when one rate is given."""
    rates = settings.peak_rates(config, wildcards.model)
    if len(rates) == 1:
        return []
    return [result(f"models/{wildcards.model}/sweep/lr-{rate}.json") for rate in rates]


def best_rate_file(wildcards):
    several = len(settings.peak_rates(config, wildcards.model)) > 1
    return [result(f"models/{wildcards.model}/sweep/best.json")] if several else []


def architecture(wildcards):
    return config["models"][wildcards.model]["train"]


def trial_params(wildcards):
    return settings.trial_params(config, wildcards.model)


def training_params(wildcards):
    return settings.training_params(config, wildcards.model)


def sweep_tokens(wildcards):
    return settings.training_of(config, wildcards.model)["sweep_tokens"]


def trial_seed(wildcards):
    return settings.trial_seed(config, wildcards.model)


def files_to_begin_with(model, seed):
    """Manifest, weights and config of the model that one begins with; none from scratch."""
    _, source = settings.init_of(config, model)
    names = ("model.json", "model.safetensors", "config.json")
    return [result(f"models/{source}/seed-{seed}/{name}") for name in names] if source else []


def init_files(wildcards):
    return files_to_begin_with(wildcards.model, wildcards.seed)


def trial_init_files(wildcards):
    return files_to_begin_with(wildcards.model, trial_seed(wildcards))


def whole_learners():
    """Models that learned from the whole train split: those whose loss is held against n-grams."""
    whole = {"domains": None, "share": 1}
    return [name for name in TRAINED if config["models"][name]["sees"] == whole]


def histories():
    return [
        result(f"models/{m}/seed-{seed}/history.parquet")
        for m in TRAINED
        for seed in settings.seeds(config, m)
    ]
