"""Which files hold a checkpoint's weights: safetensors that lie in its folder, whatever its index names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from moediff.config.checkpoints import CONFIG
from moediff.core import artifact
from moediff.core.errors import UserError, first_line, refusal

WEIGHTS = "model.safetensors"
_INDEX = ".safetensors.index.json"


def digests(folder: Path) -> list[str]:
    """Digest of a checkpoint's config, all safetensors of its folder and indices to them.

    A second one is what earlier versions wrote in its place: they left the indices out.
    """
    files = artifact.digest_files([folder / CONFIG, *sorted(folder.glob("*.safetensors"))])
    indices = sorted(folder.glob(f"*{_INDEX}"))
    return [artifact.digest(files, artifact.digest_files(indices)), files] if indices else [files]


def check_weights(folder: Path) -> None:
    """Raise UserError where an index names weights that are no safetensors of the folder.

    transformers opens whatever it names: a pickle, or a file that lies elsewhere, which no digest covers.
    """
    index = folder / f"model{_INDEX}"
    if (folder / WEIGHTS).is_file() or not index.is_file():  # one file, which needs no index
        return
    names = _object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index}: has no weight_map of tensors to files; take a whole checkpoint")
    for name in sorted(set(map(str, names.values()))):
        _check(folder, name, index)


def _object(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint."""
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
    """Refuse a name that leaves the folder, by itself or by a link, or is of another format."""
    file = folder / name
    if name == file.name and name.endswith(".safetensors"):
        if not file.is_file():
            raise UserError(f"{where}: names '{name}', which is not there; take a whole checkpoint")
        home = folder.resolve()
        homes = [home]
        if home.parent.name == "snapshots":  # the Hub's cache, whose files are links to its blobs
            homes.append(home.parent.parent / "blobs")
        if file.resolve().parent in homes:
            return
    raise UserError(
        f"{where}: names '{name}', which is no safetensors file of that folder; take a checkpoint "
        f"whose weights are safetensors beside its {CONFIG}"
    )
