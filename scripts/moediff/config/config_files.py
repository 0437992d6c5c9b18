"""Config files read a second time, strictly: what Snakemake's reading loses without a word is refused.

Of a key that stands twice YAML keeps the last; `no`, `off` and `on` as a name become a truth value, a
date a day; 010000 is 4096, 4:26:40 is 16000. Only the tree of a file is read here, where every key still
has its line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from moediff.config.plain import unquoted
from moediff.core.errors import ConfigError, first_line

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT, _WHOLE, _NUMBER, _MERGE = (
    f"tag:yaml.org,2002:{tag}" for tag in ("str", "int", "float", "merge")
)
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")


def check_files(paths: Iterable[Path | str]) -> None:
    """Refuse config files with keys that stand twice or are no text. Raises ConfigError, with the line."""
    for path in paths:
        name = os.path.relpath(path)
        try:
            text = Path(path).read_text(encoding="utf-8")
            if text.lstrip().startswith("{"):  # JSON, in which a tab is a blank
                text = text.replace("\t", " ")
            root = yaml.compose(text, Loader=_LOADER)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: cannot be read ({first_line(error)})") from error
        except yaml.YAMLError as error:
            place = getattr(error, "problem_mark", None)
            line = f":{place.line + 1}" if place else ""
            raise ConfigError(
                f"{name}{line}: not YAML ({getattr(error, 'problem', None) or first_line(error)})"
            ) from error
        except RecursionError as error:
            raise ConfigError(f"{name}: lists or mappings lie too deep in each other") from error
        _check_keys(name, root)


def _check_keys(name: str, root: yaml.Node | None) -> None:
    """The keys of every mapping of a file, and its numbers; what is shared by its name (&, *) once."""
    left, seen = [root], set()
    while left:
        node = left.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            _check_number(name, node)
        elif isinstance(node, yaml.SequenceNode):
            left += node.value
        elif isinstance(node, yaml.MappingNode):
            keys: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                text = _name(f"{name}:{line}", key)
                if text in keys:
                    raise ConfigError(
                        f"{name}:{line}: '{text}' stands twice, here and in line {keys[text]}, and only "
                        "the last would be read; give one of the two another name or remove it"
                    )
                keys[text] = line
                left.append(value)


def _check_number(name: str, node: yaml.ScalarNode) -> None:
    """Refuse a number that is not written in tens: YAML reads it by its first 0, by its colons."""
    word = node.value
    whole = node.tag == _WHOLE and not _DECIMAL.fullmatch(word)
    if whole or (node.tag == _NUMBER and ":" in word):
        read = yaml.safe_load(word)
        raise ConfigError(
            f"{name}:{node.start_mark.line + 1}: {word} is to YAML the number {read}; write that, or in "
            "quotes if it is text"
        )


def _name(where: str, key: yaml.Node) -> str:
    """The text of a key. Raises ConfigError where YAML reads it as anything but text."""
    if not isinstance(key, yaml.ScalarNode):
        raise ConfigError(f"{where}: a list or mapping stands as a name; a name is a word")
    plain = key.tag in (_TEXT, _MERGE) or (key.tag == _WHOLE and key.value.isdecimal())
    if not plain or (key.tag == _WHOLE and str(int(key.value)) != key.value):
        raise ConfigError(f"{where}: {unquoted(key.value, key.tag.rpartition(':')[2])}")
    return str(key.value)
