"""Which files hold a checkpoint's weights: safetensors that lie in its folder, whatever its JSON names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moediff.config import checkpoints
from moediff.config.checkpoints import CONFIG, INDEX, WEIGHTS
from moediff.core import artifact
from moediff.core.errors import UserError, first_line, refusal
from moediff.models import fetching

_INDEX = ".safetensors.index.json"
_EXPLICIT = "transformers_weights"  # key of config.json that names the weights or their index


def digest(folder: Path) -> str:
    """Digest of a checkpoint's config, of all safetensors of its folder and of indices to them.

    Of an adapter with that of its base; of a GGUF file its own.
    """
    return digests(folder)[0]


def digests(folder: Path) -> list[str]:
    """`digest`, and what earlier versions wrote in its place: they left the index out."""
    if checkpoints.is_gguf(folder):
        return [artifact.digest_files([folder])]
    if checkpoints.is_adapter(folder):
        own = artifact.digest_files(
            [folder / checkpoints.ADAPTER_CONFIG, folder / checkpoints.ADAPTER_WEIGHTS]
        )
        return [artifact.digest([own, base]) for base in digests(fetching.base_folder(folder))]
    weights = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    files = artifact.digest_files([folder / CONFIG, *weights])
    indices = sorted(folder.glob(f"*{_INDEX}"))
    return [artifact.digest(files, artifact.digest_files(indices)), files] if indices else [files]


def check_weights(folder: Path) -> None:
    """Raise UserError where transformers would read weights that are no safetensors of the folder.

    It opens whatever an index names: a pickle, or a file that lies elsewhere, which no digest covers.
    """
    for name in _named(folder):
        _check(folder, name, folder / CONFIG)
        if name.endswith(_INDEX):
            for shard in _indexed(folder / name):
                _check(folder, shard, folder / name)


def _named(folder: Path) -> Iterator[str]:
    """Names of the weights or of their index, in the order in which transformers looks for them."""
    config = json_object(folder / CONFIG)
    parts = [config, config.get("text_config")]
    explicit = [p[_EXPLICIT] for p in parts if isinstance(p, dict) and p.get(_EXPLICIT) is not None]
    found = [name for name in (WEIGHTS, INDEX) if (folder / name).is_file()]
    yield from map(str, explicit or found[:1])


def _indexed(index: Path) -> list[str]:
    """Names that an index gives."""
    names = json_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index}: has no weight_map of tensors to files; take a whole checkpoint")
    return sorted(set(map(str, names.values())))


def json_object(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint. Raises UserError where the file holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise refusal(path, error) or UserError(
            f"{path}: cannot be read as JSON ({first_line(error)}); take a whole checkpoint"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a JSON object; take a whole checkpoint")
    return found


def _check(folder: Path, name: str, where: Path) -> None:
    """Refuse a name that leaves the folder, or is of another format. A link in the folder is the user's own
    (the Hub's cache is full of them), and the digest is of what it leads to."""
    file = folder / name
    if name == file.name and name.endswith((".safetensors", _INDEX)):
        if not file.is_file():
            raise UserError(f"{where}: names '{name}', which is not there; take a whole checkpoint")
        return
    raise UserError(
        f"{where}: names '{name}', which is no safetensors file of that folder; take a checkpoint "
        f"whose weights are safetensors beside its {CONFIG}"
    )
