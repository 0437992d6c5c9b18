# What decides a training run, and the files that it leaves.


def trial_files(wildcards):
    """The trials of a sweep over peak learning rates; none when one rate is given."""
    rates = settings.peak_rates(config, wildcards.model)
    if len(rates) == 1:
        return []
    return [at("trial", model=wildcards.model, rate=rate) for rate in rates]


def best_rate_file(wildcards):
    several = len(settings.peak_rates(config, wildcards.model)) > 1
    return [at("best_rate", model=wildcards.model)] if several else []


def architecture(wildcards):
    return config["models"][wildcards.model]["train"]


def trial_settings(wildcards):
    """What decides a trial; its rate and its seed are chosen elsewhere."""
    left_out = ("seeds", "sweep_tokens", "peak_lr")
    kept = {key: value for key, value in config["training"].items() if key not in left_out}
    return kept | {"domains": config["models"][wildcards.model]["sees"]["domains"]}


def training_settings(wildcards):
    """What decides a training run: the rate itself unless a sweep chooses it."""
    rates = settings.peak_rates(config, wildcards.model)
    kept = trial_settings(wildcards) | {"share": config["models"][wildcards.model]["sees"]["share"]}
    return kept | ({"peak_lr": rates[0]} if len(rates) == 1 else {})


def histories():
    return [
        at("model", model=m, seed=seed, file="history.parquet")
        for m in TRAINED
        for seed in settings.seeds(config, m)
    ]


def training_work(wildcards):
    """Parameters times tokens of a training run."""
    parameters = model_weights(wildcards) * resources.MEGABYTE / 4
    return parameters * config["corpus"]["tokens"]["train"] * config["training"]["epochs"]


def trial_work(wildcards):
    """The same of a trial of the sweep."""
    parameters = model_weights(wildcards) * resources.MEGABYTE / 4
    return parameters * config["training"]["sweep_tokens"]
