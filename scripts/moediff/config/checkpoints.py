"""What `load:` names: a folder of transformers, an adapter of one (PEFT), a GGUF file, or a Hub id.

What is known of a local one before a job is checked here; of a Hub id, once it is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moediff.config import quantised
from moediff.config.base import files_of
from moediff.core.errors import ConfigError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_FILES = (CONFIG, "*.safetensors", "*.safetensors.index.json", "tokenizer.json", ADAPTER_CONFIG)
_ADAPTER_PACKAGES = ("peft",)
_GGUF_PACKAGES = ("gguf", "accelerate")


def is_gguf(name: Path | str) -> bool:
    """Whether a name is that of a GGUF file."""
    return str(name).lower().endswith(".gguf")


def parts_of_gguf(name: str) -> tuple[str, str]:
    """Folder or Hub id, and file, of a GGUF file: `owner/name/small.gguf` is one of the Hub."""
    place = Path(name)
    if place.is_file() or name.count("/") < 2:
        return str(place.parent), place.name
    owner, repository, file = name.split("/", 2)
    return f"{owner}/{repository}", file


def is_adapter(folder: Path | str) -> bool:
    """Whether a folder holds an adapter: weights that change those of another checkpoint."""
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def read_json(path: Path) -> Any:
    """What a JSON file of a checkpoint holds; None where it is not there or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def base_of(folder: Path | str) -> tuple[str, str | None]:
    """The checkpoint that an adapter changes, a Hub id or a folder, and its revision.

    A relative path is one from here, or else from the adapter's folder. Raises ConfigError where
    adapter_config.json names none.
    """
    found = read_json(Path(folder) / ADAPTER_CONFIG)
    name = found.get("base_model_name_or_path") if isinstance(found, Mapping) else None
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"{Path(folder) / ADAPTER_CONFIG}: names no base model (base_model_name_or_path)"
        )
    revision = found.get("revision")
    beside = Path(folder) / name
    if not Path(name).is_dir() and beside.is_dir():
        name = str(beside)
    return name, revision if isinstance(revision, str) and not Path(name).is_dir() else None


def checkpoint_files(name: str) -> list[str]:
    """Config, weights and tokenizer of a local checkpoint, an adapter's base among them.

    None for a Hub id.
    """
    if is_gguf(name):
        return [name] if Path(name).is_file() else []
    found = files_of(name, _FILES)
    if is_adapter(name):
        base, _ = base_of(name)
        found += [] if is_adapter(base) else files_of(base, _FILES)
    return found


def fault(name: str) -> str | None:
    """Why a local checkpoint cannot be read here, as one clause; None where nothing is known against it."""
    if is_gguf(name):
        return _lacking("a GGUF file", _GGUF_PACKAGES)
    if is_adapter(name):
        return _adapter_fault(Path(name))
    found = read_json(Path(name) / CONFIG)
    return config_fault(found) if isinstance(found, Mapping) else None


def config_fault(found: Mapping[str, Any]) -> str | None:
    """Why what a config.json asks for cannot be had here, as one clause; else None."""
    for key, value in everywhere(found):
        values = everywhere(value) if "_implementation" in key else ()
        asked = next((text for _, text in values if isinstance(text, str) and "/" in text), None)
        if asked is not None:
            return (
                f"{key} in {CONFIG} asks for code of the Hub ({asked}), which is not run here; "
                "remove that key"
            )
    return quantised.fault(found)


def everywhere(found: Any) -> Iterator[tuple[str, Any]]:
    """Every value of a JSON value, at any depth, with the key that it stands under."""
    left = [("", found)]
    while left:
        key, value = left.pop()
        yield key, value
        if isinstance(value, Mapping):
            left += value.items()
        elif isinstance(value, list):
            left += ((key, part) for part in value)


def _adapter_fault(folder: Path) -> str | None:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        return f"an adapter without {ADAPTER_WEIGHTS}; save it as safetensors"
    if any(path.name != ADAPTER_WEIGHTS for path in folder.glob("*.safetensors")):
        return "holds both an adapter and the weights of a whole model; keep either in a folder of its own"
    base, _ = base_of(folder)
    if is_adapter(base):
        return f"its base model {base} is an adapter itself; merge that one first"
    if is_gguf(base):
        return f"its base model {base} is a GGUF file; name a folder or a Hub id"
    lacking = _lacking("an adapter", _ADAPTER_PACKAGES)
    if lacking:
        return lacking
    why = fault(base)
    return f"its base model {base}: {why}" if why else None


def _lacking(what: str, packages: tuple[str, ...]) -> str | None:
    missing = quantised.missing_packages(packages)
    if not missing:
        return None
    return (
        f"{what}; needs the package{'s' * (len(missing) > 1)} {' and '.join(missing)}; "
        f"install {'them' if len(missing) > 1 else 'it'}"
    )


def check_checkpoint(where: str, name: str) -> None:
    """Refuse a local checkpoint that cannot be read here. Raises ConfigError."""
    why = fault(name)
    if why:
        raise ConfigError(f"{where}: {name}: {why}")
