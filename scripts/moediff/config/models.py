"""The section `models`: sizes and seeds as far as they are known before a job; its checks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from moediff.config.base import Config
from moediff.config.checkpoints import check_checkpoint
from moediff.config.corpus import sequences
from moediff.config.kinds import EXTERNAL, LOADED, TRAINED, kind, kind_of, models_of
from moediff.config.places import check_loaded
from moediff.config.rows import check_rows
from moediff.core.errors import ConfigError, first_line

EXPERTS_BY = 8  # rows of torch's grouped product are whole 16 bytes, of float32 and of bfloat16
MOST = {"layers": 10_000, "d_model": 1_048_576}  # as of a model that is trained here (schema.yaml)


def active_block_parameters(train: Mapping[str, int]) -> int:
    """Weights of attention and SwiGLU that one token uses, over all layers; router and norms apart."""
    attention = 4 * train["d_model"] ** 2
    return train["layers"] * (attention + 3 * train["d_model"] * train["ffn"] * train["top_k"])


def layer_count(config: Config, model: str) -> int | None:
    """Layers of a model as far as they are known before a job runs (a Hub id is not)."""
    return _known(config, model, "layers", "num_hidden_layers", "n_layer", "num_layers", "n_layers")


def model_width(config: Config, model: str) -> int | None:
    """d_model of a model as far as it is known before a job runs (a Hub id is not)."""
    return _known(config, model, "d_model", "hidden_size", "n_embd", "d_model")


def _known(config: Config, model: str, key: str, *names: str) -> int | None:
    settings = config["models"][model]
    if kind(config, model).trained:
        return settings["train"][key]
    if kind(config, model) is EXTERNAL:
        return None
    found = _checkpoint_config(f"models.{model}.load", settings["load"])
    found = found.get("text_config") or found
    for name in names:
        value = found.get(name) if isinstance(found, dict) else {}
        if value is None:
            continue
        if type(value) is not int or not 1 <= value <= MOST[key]:
            raise ConfigError(
                f"models.{model}.load: {settings['load']}/config.json has {name} {value!r:.40}, no whole "
                f"number from 1 to {MOST[key]:,}"
            )
        return value
    return None


def _checkpoint_config(where: str, folder: str) -> Config:
    """config.json of a checkpoint in a local folder; empty for a Hub id, or where there is none."""
    path = os.path.join(folder, "config.json")
    if not os.path.lexists(path):
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where}: {path} cannot be read ({first_line(error)})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {path} is not a config ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{where}: {path} is not a config (no mapping of keys)")
    return found


def seeds(config: Config, model: str) -> list[int]:
    """Seeds of a model: those of training, or one for what was not trained here."""
    settings = config["models"][model]
    trained = kind(config, model).trained
    return (settings["seeds"] or config["training"]["seeds"]) if trained else [0]


def own_tokenizers(config: Config) -> list[str]:
    """Models that read the text by a tokenizer of their own."""
    return [name for name, model in config["models"].items() if model.get("tokenizer") == "own"]


def check_model(name: str, model: Config, config: Config) -> None:
    if kind_of(model) is EXTERNAL:
        check_rows(name, config)
        return
    if kind_of(model) is LOADED:
        check_loaded(f"models.{name}.load", model["load"], config["results"])
        if model["tokenizer"] == "corpus" and "load" not in config["corpus"]["tokenizer"]:
            raise ConfigError(
                f"models.{name}.load: a checkpoint needs its own tokenizer; set corpus.tokenizer to "
                f"{{load: {model['load']}}}, or models.{name}.tokenizer to own"
            )
        if model["begin_of_text"] and model["tokenizer"] != "own":
            raise ConfigError(
                f"models.{name}.begin_of_text: sequences of the corpus's tokenizer are read by several "
                f"models, so none is begun for one; set models.{name}.tokenizer to own"
            )
        check_checkpoint(f"models.{name}.load", model["load"])
        return
    train = model["train"]
    if train["d_model"] % train["heads"] or (train["d_model"] // train["heads"]) % 2:
        raise ConfigError(
            f"models.{name}.train: d_model {train['d_model']} does not split into "
            f"{train['heads']} heads of even width"
        )
    if train["top_k"] > train["experts"]:
        raise ConfigError(
            f"models.{name}.train: top_k {train['top_k']} is more than experts {train['experts']}"
        )
    for size in ("d_model", "ffn"):
        if train["experts"] > 1 and train[size] % EXPERTS_BY:
            raise ConfigError(
                f"models.{name}.train.{size}: {train[size]} is no multiple of {EXPERTS_BY}, which the "
                "product of all experts at once needs"
            )
    _check_sees(f"models.{name}.sees.domains", model["sees"]["domains"], config["corpus"])
    share, count = model["sees"]["share"], sequences(config, "train")
    if share and not round(share * count):
        raise ConfigError(
            f"models.{name}.sees.share: {share} of {count} training sequences is none; raise it (0 leaves a "
            "model untrained)"
        )
    twin = model["match"].get("active")
    if twin is None:
        return
    if twin not in models_of(config, TRAINED):
        raise ConfigError(f"models.{name}.match.active: '{twin}' is not a model trained here")
    own, other = (active_block_parameters(config["models"][key]["train"]) for key in (name, twin))
    if abs(own / other - 1) > 0.01:
        raise ConfigError(
            f"models.{name}: {own} active block parameters, '{twin}' has {other}; "
            "more than 1 % apart (change ffn, top_k or layers)"
        )


def _check_sees(where: str, seen: list[str] | None, corpus: Config) -> None:
    """That a model's domains are there, and that what it does not learn from cannot reach the rest."""
    for domain in seen or []:
        if domain not in corpus["domains"]:
            raise ConfigError(
                f"{where}: unknown domain '{domain}'; domains: {', '.join(corpus['domains'])}"
            )
    if seen and corpus["sequence"]["attend_across_documents"]:
        raise ConfigError(
            f"{where}: with attend_across_documents it would still read the other domains before "
            "its own; set corpus.sequence.attend_across_documents to false"
        )
