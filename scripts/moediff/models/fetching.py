"""Where a checkpoint that `load:` names lies on this machine; what is fetched of the Hub, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub.errors import LocalEntryNotFoundError

from moediff.config import checkpoints
from moediff.core.errors import UserError, first_line

# `*` of such a pattern crosses "/": other copies of the weights lie in folders (original/, onnx/).
_SMALL, _BELOW = ["*.json", "*.txt"], ["*/*"]


def fetch(name: str, revision: str | None) -> Path:
    """The folder, or GGUF file, of a checkpoint: a local one as it is, a Hub id downloaded.

    An adapter's base is fetched too. Raises UserError where there is none, or nothing of it can be
    read here.
    """
    place = _found(name, revision, cached=False)
    why = checkpoints.fault(str(place))
    if why:
        raise UserError(f"model '{name}': {why}")
    if not checkpoints.is_gguf(place) and checkpoints.is_adapter(place):
        fetch(*checkpoints.base_of(place))
    elif place.is_dir() and not (
        (place / checkpoints.CONFIG).is_file() and list(place.glob("*.safetensors"))
    ):
        raise UserError(
            f"model '{name}': needs {checkpoints.CONFIG} and safetensors weights in {place.name}/"
        )
    return place


def here(name: str, revision: str | None) -> Path | None:
    """Where a checkpoint lies on this machine, with its weights and its base.

    None where any of it would have to be fetched.
    """
    try:
        place = _found(name, revision, cached=True)
        if place.is_file():
            return place
        # The Hub's cache may hold the small files alone.
        wanted = [] if Path(name).is_dir() else _weights(place)
        whole = all((place / file).is_file() for file in wanted) and _base_here(place)
        return place if whole else None
    except UserError:
        return None


def _base_here(place: Path) -> bool:
    """Whether a checkpoint is no adapter, or its base lies on this machine."""
    return not checkpoints.is_adapter(place) or here(*checkpoints.base_of(place)) is not None


def base_folder(adapter: Path) -> Path:
    """Where the base of a fetched adapter lies. Raises UserError where it is gone."""
    return _found(*checkpoints.base_of(adapter), cached=True)


def _found(name: str, revision: str | None, cached: bool) -> Path:
    """Where a checkpoint lies; with `cached` nothing is downloaded."""
    if Path(name).is_dir() or (checkpoints.is_gguf(name) and Path(name).is_file()):
        return Path(name)
    try:
        if checkpoints.is_gguf(name):
            return _gguf(name, revision, cached)
        return _snapshot(name, revision, cached)
    except UserError:
        raise
    except LocalEntryNotFoundError as error:
        where = "is not in the Hub's cache any more" if cached else "the Hub cannot be read"
        raise UserError(
            f"model '{name}': no such folder, and {where} ({first_line(error)}); check the name, "
            "the revision and the network"
        ) from error
    except Exception as error:  # the Hub's client raises a dozen unrelated classes
        raise UserError(
            f"model '{name}': no such folder, and the Hub cannot be read "
            f"({type(error).__name__}: {first_line(error)}); check the name, the revision and the network"
        ) from error


def _gguf(name: str, revision: str | None, cached: bool) -> Path:
    """A GGUF file of the Hub, named owner/repository/file.gguf."""
    from huggingface_hub import hf_hub_download

    if name.count("/") < 2:
        raise UserError(
            f"model '{name}': no such file; one of the Hub is named owner/name/file.gguf"
        )
    repository, file = checkpoints.parts_of_gguf(name)
    found = hf_hub_download(repository, file, revision=revision, local_files_only=cached)
    return Path(found)


def _snapshot(name: str, revision: str | None, cached: bool) -> Path:
    """The folder of a Hub id: its small files first, which say which weights there are."""
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(
            name,
            revision=revision,
            local_files_only=cached,
            allow_patterns=_SMALL,
            ignore_patterns=_BELOW,
        )
    )
    if cached:
        return folder
    found = checkpoints.read_json(folder / checkpoints.CONFIG)
    why = checkpoints.config_fault(found) if isinstance(found, Mapping) else None
    if why:  # before gigabytes are fetched
        raise UserError(f"model '{name}': {why}")
    commit = folder.name  # the very files that the small ones go with
    snapshot_download(name, revision=commit, allow_patterns=_weights(folder))
    return folder


def _weights(folder: Path) -> list[str]:
    """Names of the weights that a folder's small files tell of."""
    index = checkpoints.read_json(folder / checkpoints.INDEX)
    if isinstance(index, Mapping) and isinstance(index.get("weight_map"), Mapping):
        return sorted({str(file) for file in index["weight_map"].values()})
    return [checkpoints.ADAPTER_WEIGHTS if checkpoints.is_adapter(folder) else checkpoints.WEIGHTS]
