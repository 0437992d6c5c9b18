"""A config made whole: defaults, checks that a schema cannot make, and what the config asks for.

Imports nothing heavy: every job of a cluster run parses the Snakefile again.
"""

from __future__ import annotations

import copy
import glob
import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from moediff.errors import ConfigError

SPLITS = ("train", "fit", "validation")

# Raised by hand when the code of a stage changes what it writes: the only way in which code
# (and never a docstring) makes Snakemake run a stage again. tests/test_versions.py guards it.
STAGE_VERSIONS = {
    "documents": 1,
    "tokenizer": 1,
    "token_shards": 1,
    "ngrams": 1,
    "models": 1,
    "activations": 1,
    "baselines": 1,
    "dictionaries": 1,
    "metrics": 1,
    "plots": 1,
    "budget": 1,
}

Config = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """One side of a dictionary: a model of one seed (hook and layer are the config's)."""

    model: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.model}.{self.seed}"


@dataclass(frozen=True)
class Member:
    """The sources of one dictionary of a comparison, in order: the first is A, the second B."""

    comparison: str
    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        return "_".join(source.name for source in self.sources)


@dataclass(frozen=True)
class Fit:
    """One dictionary: a member of a comparison, a recipe and a seed."""

    member: Member
    recipe: str
    seed: int


# --- making a config whole -------------------------------------------------------------------


def complete(config: Mapping[str, Any], schema: Mapping[str, Any]) -> Config:
    """The config with every default filled in, checked. Raises ConfigError with one line."""
    whole = _expand_like(json.loads(json.dumps(config, default=str)))
    resolved = _resolve(schema, whole, schema["$defs"], ())
    _refuse_schema_errors(whole, resolved)
    whole = _integers(whole, resolved)
    _check(whole)
    return whole


def _expand_like(config: Config) -> Config:
    """Fill the `train` keys of each model from the model that its `like` names."""
    models = config.get("models")
    if not isinstance(models, dict):
        return config
    trained = {name: model for name, model in models.items() if isinstance(model, dict)}

    def train_keys(name: str, seen: tuple[str, ...]) -> Config:
        model = trained[name]
        own = model.get("train")
        own = own if isinstance(own, dict) else {}
        base = model.get("like")
        if base is None:
            return own
        if not isinstance(base, str) or base in (*seen, name) or base not in trained:
            raise ConfigError(
                f"models.{name}.like: '{base}' is not another model; models: {', '.join(models)}"
            )
        if "load" in trained[base]:
            raise ConfigError(
                f"models.{name}.like: '{base}' is loaded; only a trained model can be copied"
            )
        return {**train_keys(base, (*seen, name)), **own}

    merged = {name: train_keys(name, ()) for name in trained}
    for name, model in trained.items():
        if "like" in model:
            model["train"] = merged[name]
    return config


def _resolve(schema: Mapping, value: Any, definitions: Mapping, path: tuple) -> dict[str, Any]:
    """Fill defaults into `value` and return the schema that applies to it, free of choices.

    A choice (`oneOf`) is settled by the constants and required keys of its branches, so that an
    error names the wrong key and not a list of schemas.
    """
    schema = _dereference(schema, definitions)
    if "oneOf" in schema:
        schema = _dereference(_branch(schema["oneOf"], value, path), definitions)
    resolved = {key: part for key, part in schema.items() if key not in ("properties", "$defs")}
    if not isinstance(value, dict) or schema.get("type") != "object":
        return resolved
    properties = dict(schema.get("properties", {}))
    for key, part in properties.items():
        part = _dereference(part, definitions)
        if key not in value and "default" in part:
            value[key] = copy.deepcopy(part["default"])
    others = schema.get("additionalProperties")
    if isinstance(others, dict):
        properties |= {key: others for key in value if key not in properties}
        resolved["additionalProperties"] = False
    resolved["properties"] = {
        key: _resolve(part, value[key], definitions, (*path, key)) if key in value else {}
        for key, part in properties.items()
    }
    if "propertyNames" in schema:
        resolved["propertyNames"] = _dereference(schema["propertyNames"], definitions)
    return resolved


def _dereference(schema: Mapping, definitions: Mapping) -> Mapping:
    reference = schema.get("$ref")
    return definitions[reference.removeprefix("#/$defs/")] if reference else schema


def _branch(branches: list[Mapping], value: Any, path: tuple) -> Mapping:
    where = ".".join(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {value!r} must be a mapping of keys")
    fitting = [branch for branch in branches if set(branch["required"]) <= value.keys()]
    if not fitting:
        keys = " or ".join(repr(branch["required"][0]) for branch in branches)
        if len({branch["required"][0] for branch in branches}) == 1:
            keys = repr(branches[0]["required"][0])
            if branches[0]["required"][0] in value:  # the kind is known, another key is missing
                fitting = branches
        if not fitting:
            raise ConfigError(f"{where}: needs the key {keys}")
    kinds = {}
    for branch in branches:
        for key, part in branch["properties"].items():
            if "const" in part:
                kinds[part["const"]] = (key, branch)
    if not kinds:
        return fitting[0]
    key = next(iter(kinds.values()))[0]
    if not isinstance(value.get(key), str) or value[key] not in kinds:
        raise ConfigError(
            f"{where}.{key}: '{value.get(key)}' is not one of {', '.join(sorted(kinds))}"
        )
    return kinds[value[key]][1]


def _refuse_schema_errors(config: Config, schema: Mapping) -> None:
    errors = sorted(
        Draft202012Validator(schema).iter_errors(config),
        key=lambda error: list(map(str, error.path)),
    )
    if errors:
        raise ConfigError(_explain(errors[0]))


def _integers(value: Any, schema: Mapping) -> Any:
    """Whole numbers written with a point (4.5e+5) as integers, where the schema asks for those."""
    if isinstance(value, dict):
        return {key: _integers(part, schema["properties"][key]) for key, part in value.items()}
    if isinstance(value, list):
        return [_integers(part, schema.get("items", {})) for part in value]
    kinds = schema.get("type", ())
    if isinstance(value, float) and "integer" in ([kinds] if isinstance(kinds, str) else kinds):
        return int(value)
    return value


def _explain(error: Any) -> str:
    """One line of plain words for one error of jsonschema."""
    return " ".join(_explained(error).split())


def _explained(error: Any) -> str:
    where = ".".join(str(part) for part in error.absolute_path) or "config"
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = sorted(set(error.instance) - set(known))
        return f"{where}: unknown key '{unknown[0]}'; known keys: {', '.join(sorted(known))}"
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return f"{where}: the key '{missing[0]}' is missing"
    if error.validator == "type" and _looks_like_number(error.instance):
        return (
            f"{where}: '{error.instance}' is text to YAML, not a number; "
            f"write {_as_yaml_number(error.instance)}"
        )
    return f"{where}: {error.message}"


def _refuse_unbounded(value: Any, where: str) -> None:
    """NaN and infinity pass every bound of a schema."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {value} is not a finite number")
    children = value.items() if isinstance(value, dict) else ()
    children = enumerate(value) if isinstance(value, list) else children
    for key, part in children:
        _refuse_unbounded(part, f"{where}.{key}".removeprefix("."))


def _looks_like_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


def _as_yaml_number(text: str) -> str:
    mantissa, exponent, power = text.lower().partition("e")
    if not exponent:
        return text
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    return f"{mantissa}e{power if power[:1] in '+-' else '+' + power}"


# --- checks across keys ----------------------------------------------------------------------


def _check(config: Config) -> None:
    _refuse_unbounded(config, "")
    low, high = config["features"]["bounds"]
    if not 0 <= low <= high <= 1:
        raise ConfigError(f"features.bounds: [{low}, {high}] must rise from 0 to 1")
    _check_corpus(config["corpus"])
    for name, model in config["models"].items():
        _check_model(name, model, config)
    _check_hook(config)
    for name, recipe in config["recipes"].items():
        _check_recipe(name, recipe, config)
    for name in config["comparisons"]:
        _check_comparison(name, config)


def _check_corpus(corpus: Config) -> None:
    if corpus["splits"]["fit"] + corpus["splits"]["validation"] >= 1:
        raise ConfigError("corpus.splits: fit and validation leave nothing for train")
    length = corpus["sequence"]["length"]
    for split, tokens in corpus["tokens"].items():
        if tokens < length:
            raise ConfigError(
                f"corpus.tokens.{split}: {tokens} is less than one sequence of {length} tokens"
            )
    if corpus["shard_tokens"] < length:
        raise ConfigError(
            f"corpus.shard_tokens: {corpus['shard_tokens']} is less than one sequence of {length}"
        )
    for name, domain in corpus["domains"].items():
        pattern = domain.get("group_pattern")
        if pattern is not None:
            if domain["group"] is None:
                raise ConfigError(f"corpus.domains.{name}.group_pattern: needs a group column")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"corpus.domains.{name}.group_pattern: '{pattern}' is not a regular "
                    f"expression ({error})"
                ) from error
        if domain["source"] == "files":
            for pattern in domain["paths"]:
                if not glob.glob(pattern, recursive=True):
                    raise ConfigError(
                        f"corpus.domains.{name}.paths: no file matches '{pattern}' "
                        f"(from {Path.cwd().name}/)"
                    )


def _check_model(name: str, model: Config, config: Config) -> None:
    if "load" in model:
        if "load" not in config["corpus"]["tokenizer"]:
            raise ConfigError(
                f"models.{name}.load: a checkpoint needs its own tokenizer; "
                f"set corpus.tokenizer to {{load: {model['load']}}}"
            )
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
    twin = model["match"].get("active")
    if twin is None:
        return
    if "train" not in config["models"].get(twin, {}):
        raise ConfigError(f"models.{name}.match.active: '{twin}' is not a model trained here")
    own, other = (active_block_parameters(config["models"][key]["train"]) for key in (name, twin))
    if abs(own / other - 1) > 0.01:
        raise ConfigError(
            f"models.{name}: {own} active block parameters, '{twin}' has {other}; "
            "more than 1 % apart (change ffn, top_k or layers)"
        )


def active_block_parameters(train: Mapping[str, int]) -> int:
    """Weights of attention and SwiGLU that one token uses, over all layers; router and norms apart."""
    attention = 4 * train["d_model"] ** 2
    return train["layers"] * (attention + 3 * train["d_model"] * train["ffn"] * train["top_k"])


def _check_hook(config: Config) -> None:
    for name in config["models"]:
        layers = layer_count(config, name)
        if layers is not None:
            resolve_layer(config["activations"]["layer"], layers, name)


def _check_recipe(name: str, recipe: Config, config: Config) -> None:
    where = f"recipes.{name}"
    if recipe["k"] > recipe["features"]:
        raise ConfigError(f"{where}.k: {recipe['k']} is more than features {recipe['features']}")
    if recipe["warmup"] + recipe["decay"] > 1:
        raise ConfigError(f"{where}: warmup and decay together are more than the whole run")
    if count_of(recipe["tied"], recipe["features"]) > recipe["features"]:
        raise ConfigError(
            f"{where}.tied: {recipe['tied']} is more than features {recipe['features']}"
        )
    fit_tokens = config["corpus"]["tokens"]["fit"]
    if recipe["threshold_rows"] * 2 > fit_tokens:
        raise ConfigError(
            f"{where}.threshold_rows: {recipe['threshold_rows']} is more than half of "
            f"corpus.tokens.fit ({fit_tokens})"
        )


def _check_comparison(name: str, config: Config) -> None:
    where = f"comparisons.{name}"
    comparison = config["comparisons"][name]
    for model in comparison.get("each") or comparison["all"]:
        if model not in config["models"]:
            raise ConfigError(
                f"{where}: unknown model '{model}'; models: {', '.join(config['models'])}"
            )
    for recipe in comparison["recipes"]:
        if recipe not in config["recipes"]:
            raise ConfigError(
                f"{where}.recipes: unknown recipe '{recipe}'; recipes: {', '.join(config['recipes'])}"
            )
    found = members(config, name)
    if not found:
        raise ConfigError(
            f"{where}: the same model twice needs as many seeds, or a source would stand twice "
            "in one dictionary (training.seeds)"
        )
    for member in found:
        if len(set(member.sources)) < len(member.sources):
            raise ConfigError(f"{where}: one source stands twice in {member.name}")
    for recipe in comparison["recipes"]:
        _check_blocks(where, recipe, config["recipes"][recipe], found[0], config)


def _check_blocks(where: str, name: str, recipe: Config, member: Member, config: Config) -> None:
    sources = len(member.sources)
    features = recipe["features"]
    tied = count_of(recipe["tied"], features) if sources > 1 else 0
    exclusive = count_of(recipe["exclusive"], features) * sources if sources > 1 else 0
    if tied + exclusive > features:
        raise ConfigError(
            f"{where} with recipe '{name}': {tied} tied and {exclusive} exclusive features "
            f"are more than {features}"
        )
    if recipe["tie"] == "direction" and tied:
        widths = {source.model: model_width(config, source.model) for source in member.sources}
        known = {model: width for model, width in widths.items() if width is not None}
        if len(set(known.values())) > 1:
            listed = ", ".join(f"{model} {width}" for model, width in known.items())
            raise ConfigError(
                f"{where} with recipe '{name}': a tie by direction needs equal widths, not "
                f"{listed}; use tie: norm"
            )


# --- what a config asks for ------------------------------------------------------------------


def count_of(amount: float, whole: int) -> int:
    """A count from a count (a whole number) or a share (a number with a point)."""
    return amount if isinstance(amount, int) else round(amount * whole)


def resolve_layer(layer: float, layers: int, model: str) -> int:
    """Index of a block from an index (a whole number) or a share of depth; 1.0 is the last block."""
    index = layer if isinstance(layer, int) else min(int(layer * layers + 1e-9), layers - 1)
    if index >= layers or (isinstance(layer, float) and layer > 1):
        raise ConfigError(
            f"activations.layer: {layer} does not exist in model '{model}', which has {layers} "
            f"layers (0 to {layers - 1}, or a share of depth from 0.0 to 1.0)"
        )
    return index


def layer_count(config: Config, model: str) -> int | None:
    """Layers of a model as far as they are known before a job runs (a Hub id is not)."""
    return _known(config, model, "layers", "num_hidden_layers", "n_layer")


def model_width(config: Config, model: str) -> int | None:
    """d_model of a model as far as it is known before a job runs (a Hub id is not)."""
    return _known(config, model, "d_model", "hidden_size", "n_embd")


def _known(config: Config, model: str, key: str, *names: str) -> int | None:
    settings = config["models"][model]
    if "train" in settings:
        return settings["train"][key]
    checkpoint = Path(settings["load"]) / "config.json"
    if not checkpoint.is_file():
        return None
    try:
        found = json.loads(checkpoint.read_text(encoding="utf-8"))
        found = found.get("text_config", found)
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"models.{model}.load: {checkpoint} is not a config ({error})") from error
    return next((found[name] for name in names if name in found), None)


def seeds(config: Config, model: str) -> list[int]:
    """Seeds of a model: those of training, or one for a checkpoint."""
    return [0] if "load" in config["models"][model] else config["training"]["seeds"]


def peak_rates(config: Config) -> list[float]:
    """Peak learning rates to try; more than one asks for a sweep."""
    rates = config["training"]["peak_lr"]
    return rates if isinstance(rates, list) else [rates]


def members(config: Config, comparison: str) -> list[Member]:
    """The dictionaries of a comparison, as lists of sources.

    `each` gives one for every choice of one seed a model (the same model twice: two seeds,
    in one order only); `all` gives one over every seed of every model.
    """
    settings = config["comparisons"][comparison]
    if "all" in settings:
        sources = [
            Source(model, seed) for model in settings["all"] for seed in seeds(config, model)
        ]
        return [Member(comparison, tuple(sources))]
    choices = itertools.product(
        *([Source(model, seed) for seed in seeds(config, model)] for model in settings["each"])
    )
    found: dict[frozenset[Source], Member] = {}
    for sources in choices:
        if len(set(sources)) == len(sources):
            found.setdefault(frozenset(sources), Member(comparison, sources))
    return list(found.values())


def fits(config: Config) -> list[Fit]:
    """Every dictionary that the config asks for."""
    return [
        Fit(member, recipe, seed)
        for comparison, settings in config["comparisons"].items()
        for member in members(config, comparison)
        for recipe in settings["recipes"]
        for seed in config["recipes"][recipe]["seeds"]
    ]


def text_bytes(config: Config, domain: str) -> int | None:
    """Bytes of text to read of a domain: its `megabytes`, or enough for the token budget.

    Enough is 8 bytes a token (text runs at 3 to 5) of the split that needs most, with a quarter
    more for groups that fall unevenly, rounded up to a power of two: a budget that changes a
    little reads no text again. Files that a user names are read whole: None.
    """
    corpus = config["corpus"]
    settings = corpus["domains"][domain]
    if settings["source"] == "files":
        return None
    if settings["megabytes"] is not None:
        return int(settings["megabytes"] * 1e6)
    weight = settings["weight"] / sum(other["weight"] for other in corpus["domains"].values())
    shares = corpus["splits"] | {"train": 1 - sum(corpus["splits"].values())}
    need = max(corpus["tokens"][split] * weight / shares[split] for split in SPLITS)
    return 2 ** math.ceil(math.log2(10 * need))


def sequences(config: Config, split: str) -> int:
    """Packed sequences of a split: its token budget in whole sequences."""
    return config["corpus"]["tokens"][split] // config["corpus"]["sequence"]["length"]


def shard_count(config: Config, split: str) -> int:
    """Shards of a split, each of at most `shard_tokens` tokens."""
    per_shard = config["corpus"]["shard_tokens"] // config["corpus"]["sequence"]["length"]
    return -(-sequences(config, split) // per_shard)
