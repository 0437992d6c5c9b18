"""A config against its schema: defaults filled in, and errors in plain words."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

from jsonschema import Draft202012Validator

from moediff.config.base import Config
from moediff.config.kinds import KINDS
from moediff.config.plain import plain, word_of
from moediff.core.errors import ConfigError


def fill(
    config: Mapping[str, Any], schema: Mapping[str, Any], presets: Mapping[str, Config]
) -> Config:
    """The config with every default filled in. Raises ConfigError at what the schema refuses."""
    whole = _expand_like(plain(config))
    whole = _expand_presets(whole, presets)
    resolved = _resolve(schema, whole, schema["$defs"], ())
    _refuse_schema_errors(whole, resolved)
    whole = _integers(whole, resolved)
    _refuse_unbounded(whole, "")
    return whole


def defaults(schema: Mapping[str, Any], definition: str) -> Config:
    """Every key of a definition at its default."""
    value: Config = {}
    _resolve(schema["$defs"][definition], value, schema["$defs"], ())
    return value


def recipe_of(schema: Mapping[str, Any], presets: Mapping[str, Config], preset: str) -> Config:
    """A published recipe with every key that it leaves open at its default."""
    value = copy.deepcopy(presets[preset])
    _resolve(schema["$defs"]["recipe"], value, schema["$defs"], ())
    return value


def _expand_presets(config: Config, presets: Mapping[str, Config]) -> Config:
    """Fill the keys of each recipe from the preset that it names."""
    recipes = config.get("recipes")
    if not isinstance(recipes, dict):
        return config
    for name, recipe in recipes.items():
        preset = recipe.get("preset") if isinstance(recipe, dict) else None
        if preset is None:
            continue
        if not isinstance(preset, str) or preset not in presets:
            raise ConfigError(
                f"recipes.{name}.preset: '{preset}' is not one of {', '.join(sorted(presets))} "
                "(a number is written in quotes)"
            )
        recipes[name] = copy.deepcopy(presets[preset]) | recipe
    return config


def _expand_like(config: Config) -> Config:
    """Fill the `train` keys of each model from the model that its `like` names."""
    models = config.get("models")
    if not isinstance(models, dict):
        return config
    trained = {name: model for name, model in models.items() if isinstance(model, dict)}

    def train_keys(name: str, seen: tuple[str, ...]) -> Config:
        model = trained[name]
        own = model.get("train", {})
        if not isinstance(own, dict):
            raise ConfigError(f"models.{name}.train: {own!r} must be a mapping of keys")
        base = model.get("like")
        if base is None:
            return own
        if not isinstance(base, str) or base in (*seen, name) or base not in trained:
            raise ConfigError(
                f"models.{name}.like: '{base}' is not another model; models: {', '.join(models)}"
            )
        for key, kind in KINDS.items():
            if key in trained[base] and not kind.trained:
                raise ConfigError(
                    f"models.{name}.like: '{base}' is {kind.name}; only a trained model can be copied"
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
    error names the wrong key and not a list of schemas. A mapping with `defaults: false` holds keys
    of another section given again: what it leaves out is that section's, not a default.
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
        if key not in value and "default" in part and schema.get("defaults", True):
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
    if error.validator in ("type", "pattern") and _looks_like_number(error.instance):
        number = _as_yaml_number(error.instance)
        if number == error.instance:  # without quotes it would have been one
            return (
                f"{where}: '{number}' is text, not a number: in a config file write {number} without "
                "quotes (what stands in brackets after --config is text always)"
            )
        return f"{where}: '{error.instance}' is text to YAML, not a number; write {number}"
    no_text = error.instance is None or isinstance(error.instance, bool | int | float)
    if error.validator == "type" and "string" in error.validator_value and no_text:
        shown = word_of(error.instance)
        return f"{where}: {shown} is no text to YAML; if it is a name, write it in quotes"
    return f"{where}: {error.message}"


def _refuse_unbounded(value: Any, where: str) -> None:
    """NaN and infinity pass every bound of a schema."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {value} is not a finite number")
    children: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
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
