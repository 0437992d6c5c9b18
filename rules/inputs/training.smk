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
    if source is None:
        return []
    return [at("model", model=source, seed=seed, file=name) for name in names]


def init_files(wildcards):
    return files_to_begin_with(wildcards.model, wildcards.seed)


def trial_init_files(wildcards):
    return files_to_begin_with(wildcards.model, trial_seed(wildcards))


def kept_together():
    """Models that are trained here, by the steps after which their weights are kept; of none there may be none."""
    found = {(): []}
    for model in TRAINED:
        found.setdefault(tuple(settings.kept_steps(config, model)), []).append(model)
    return found


def kept_files(steps):
    """Named outputs of a run that keeps its weights after these steps: manifests, weights, configs."""
    names = {
        "kept": "model.json",
        "kept_weights": "model.safetensors",
        "kept_configs": "config.json",
    }
    return {
        name: [at("model", model=layout.at_step("{model}", step), file=file) for step in steps]
        for name, file in names.items()
        if steps
    }


def histories():
    return [
        at("model", model=m, seed=seed, file="history.parquet")
        for m in TRAINED
        for seed in settings.seeds(config, m)
    ]


def training_work(wildcards):
    """Parameters times tokens of a training run."""
    parameters = model_weights(wildcards) * resources.MEGABYTE / 4
    return (
        parameters
        * config["corpus"]["tokens"]["train"]
        * settings.training_of(config, wildcards.model)["epochs"]
    )


def trial_work(wildcards):
    """The same of a trial of the sweep."""
    parameters = model_weights(wildcards) * resources.MEGABYTE / 4
    return parameters * sweep_tokens(wildcards)
