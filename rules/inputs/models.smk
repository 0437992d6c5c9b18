# What decides a loaded model, and what a later stage needs of any model.


def model_settings(wildcards):
    """What decides what a checkpoint is and how it reads; where it is placed changes no result."""
    settings_of = config["models"][wildcards.model]
    others = {"device_map"}
    if not settings_of["begin_of_text"]:  # so that models from before there was this key stay made
        others.add("begin_of_text")
    return {key: value for key, value in settings_of.items() if key not in others}


def checkpoint_files(wildcards):
    """Files of a local checkpoint: a changed one is described again."""
    return local(settings.checkpoint_files(config["models"][wildcards.model]["load"]))


def tokenizer_beside():
    """The tokenizer that `load` finds beside the vocabulary. It is named where results go to a bucket, from
    which comes only what is named; elsewhere it never was, and one input more would load all models again.
    """
    return at("tokenizer") if STORE else []


def manifest(model, seed):
    return at("model", model=model, seed=seed, file="model.json")


@cache
def files_of_model(model, seed):
    names = ["model.json"]
    if settings.kind(config, model).trained:
        names += ["model.safetensors", "config.json"]
    return [at("model", model=model, seed=seed, file=name) for name in names]


def model_files(wildcards):
    """What a later stage needs of a model: its manifest, and its weights when trained here."""
    return files_of_model(wildcards.model, wildcards.seed)


def manifests():
    return [manifest(m, seed) for m in LANGUAGE_MODELS for seed in settings.seeds(config, m)]


def ngrams():
    """The n-grams that language models must beat; none where there is no such model."""
    return [at("ngrams")] if LANGUAGE_MODELS else []


def model_weights(wildcards):
    return resources.model_mb(config, wildcards.model)
