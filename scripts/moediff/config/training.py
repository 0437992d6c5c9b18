"""The section `training`, and what a model changes of it: settings, rates, first weights; its checks."""

from __future__ import annotations

from moediff.config.base import Config, as_list
from moediff.config.kinds import kind
from moediff.config.models import seeds
from moediff.core.errors import ConfigError

# Keys that came when models had been trained without them. At these values, their defaults, they
# change nothing and are left out of a job's parameters, so that no such model is trained again.
YOUNGER: Config = {"router_losses": {}, "trainable": "all", "optimizer": "adamw"}
SCRATCH = "scratch"  # the init of a model that names none


def training_of(config: Config, model: str) -> Config:
    """How one model is trained: `training`, with the keys that the model gives for itself."""
    return config["training"] | config["models"][model].get("training", {})


def init_of(config: Config, model: str) -> tuple[str, str | None]:
    """How a model begins (a name of `training.inits.INITS`), and the model that it is made from."""
    return next(iter(config["models"][model].get("init", {SCRATCH: None}).items()))


def peak_rates(config: Config, model: str) -> list[float]:
    """Peak learning rates to try; more than one asks for a sweep. An untrained model tries none."""
    rates = as_list(training_of(config, model)["peak_lr"])
    return rates if config["models"][model]["sees"]["share"] else rates[:1]


def trial_params(config: Config, model: str) -> Config:
    """What decides a trial of the sweep; its rate, its length and its seed are chosen elsewhere."""
    apart = ("seeds", "sweep_tokens", "peak_lr", "keep")
    params = {
        key: value
        for key, value in training_of(config, model).items()
        if key not in apart and not (key in YOUNGER and value == YOUNGER[key])
    }
    params["domains"] = config["models"][model]["sees"]["domains"]
    how, source = init_of(config, model)
    return params if source is None else params | {"init": {how: source}}


def training_params(config: Config, model: str) -> Config:
    """What decides a training run: the rate itself unless a sweep chooses it."""
    rates = peak_rates(config, model)
    params = trial_params(config, model) | {"share": config["models"][model]["sees"]["share"]}
    return params | ({"peak_lr": rates[0]} if len(rates) == 1 else {})


def trial_seed(config: Config, model: str) -> int:
    """Seed of all trials of a model: the first of `training`, or of a model that begins with another
    the first of its own, since the other has each of these."""
    _, source = init_of(config, model)
    return config["training"]["seeds"][0] if source is None else seeds(config, model)[0]


def check_training(name: str, config: Config) -> None:
    """That a model trained here has something to train, and a model to begin with where it says so."""
    model = config["models"][name]
    if not kind(config, name).trained:
        return
    if "seeds" in model.get("training", {}):
        raise ConfigError(
            f"models.{name}.training.seeds: a model's own seeds stand in models.{name}.seeds"
        )
    if training_of(config, name)["trainable"] == "router" and model["train"]["experts"] == 1:
        raise ConfigError(
            f"models.{name}: training.trainable is router, and a dense model has none; set "
            f"models.{name}.training.trainable to all"
        )
    if "init" in model:
        _check_init(name, config)


def _check_init(name: str, config: Config) -> None:
    models = config["models"]
    how, source = init_of(config, name)
    where = f"models.{name}.init.{how}"
    if source is None or source == name or source not in models:
        raise ConfigError(f"{where}: '{source}' is not another model; models: {', '.join(models)}")
    if not kind(config, source).trained:
        raise ConfigError(
            f"{where}: '{source}' is not trained here; only such a model is trained on"
        )
    _refuse_circle(name, config)
    train, other = models[name]["train"], models[source]["train"]
    for key, value in train.items():
        if other[key] != value:
            raise ConfigError(
                f"{where}: '{source}' has {key} {other[key]}, this model {value}; all `train` keys "
                f"must be equal (like: {source})"
            )
    for seed in seeds(config, name):
        if seed not in seeds(config, source):
            raise ConfigError(
                f"{where}: seed {seed} is no seed of '{source}', which has "
                f"{', '.join(map(str, seeds(config, source)))}; set models.{name}.seeds to some of these"
            )


def _refuse_circle(name: str, config: Config) -> None:
    """Models that begin with each other cannot begin."""
    chain = [name]
    while "init" in config["models"].get(chain[-1], {}):
        _, source = init_of(config, chain[-1])
        if source is None:
            return
        if source in chain:
            raise ConfigError(
                f"models.{name}.init: models begin with each other in a circle "
                f"({' -> '.join([*chain, source])})"
            )
        chain.append(source)
