"""A config as plain values alone: mappings with text as keys, lists, text, numbers, truth values, null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from moediff.core.errors import ConfigError

DEEPEST = 50  # mappings and lists in each other; a config has eight
MOST = 100_000  # values; a few aliases of aliases make more than memory holds
LARGEST, SMALLEST = 10**36, 1e-36  # of numbers other than 0, in size: float32 holds those
# What YAML reads a word without quotes as: by its tag.
_READ_AS = {
    "bool": "its word for true or false", "null": "its word for nothing", "int": "a number",
    "float": "a number", "timestamp": "a date", "value": "a sign of its own",
}  # fmt: skip


def unquoted(word: str, tag: str) -> str:
    """What to do about a name that YAML does not read as text."""
    read = _READ_AS.get(tag, "no text")
    return f"the name {word} is to YAML {read}; write it in quotes"


def word_of(value: Any) -> str:
    """What stood in YAML, as far as it can be told, where a value is no text."""
    if isinstance(value, bool):
        return "yes (on, true)" if value else "no (off, false)"
    return "null (~)" if value is None else str(value)


def plain(config: Mapping[Any, Any]) -> dict[str, Any]:
    """A copy that shares nothing with `config`. Raises ConfigError for what no config can hold."""
    left = MOST

    def copy(value: Any, where: tuple[str, ...]) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or len(where) > DEEPEST:
            raise ConfigError(
                f"{'.'.join(where[:4])}: a mapping or list holds itself, or lies more than {DEEPEST} deep, "
                f"or there are more than {MOST:,} values"
            )
        if isinstance(value, Mapping):
            return {
                (name := _key(key, where)): copy(part, (*where, name))
                for key, part in value.items()
            }
        if isinstance(value, list | tuple):
            return [copy(part, (*where, str(place))) for place, part in enumerate(value)]
        return _scalar(value, ".".join(where))

    return copy(config, ())


def _key(key: Any, where: tuple[str, ...]) -> str:
    if isinstance(key, str):
        return _scalar(key, ".".join((*where, key)))
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    tag = {bool: "bool", type(None): "null", float: "float"}.get(type(key), "timestamp")
    raise ConfigError(f"{'.'.join(where) or 'config'}: {unquoted(word_of(key), tag)}")


def _scalar(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > LARGEST:
            raise ConfigError(
                f"{where}: a whole number of {value.bit_length()} bits is larger than any here"
            )
        return value
    if isinstance(value, float):
        if math.isfinite(value) and value and not SMALLEST <= abs(value) <= LARGEST:
            raise ConfigError(
                f"{where}: {value} is too {'small' if abs(value) < 1 else 'large'} for any number here"
            )
        return value
    if not isinstance(value, str):
        kind = type(value).__name__
        raise ConfigError(f"{where}: {value} is to YAML a {kind}, no text; write it in quotes")
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
        raise ConfigError(f"{where}: its text holds a NUL or half a character (a lone surrogate)")
    return value
