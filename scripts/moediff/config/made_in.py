"""Whose results a folder holds: Snakemake notes what made a file in one working directory, and there only.

Two working directories with one results folder would take each other's files for their own, whatever
their configs say. So the folder bears a mark: an identity, which is kept in .snakemake of its working
directory and so goes wherever that goes, and where that directory lies. Of results inside a working
directory that is a relative path, so that both can be moved as one, even without .snakemake.

Without .snakemake Snakemake knows no more by which config a file was made, and takes all that is there for
this one's. So the mark has a digest of the last config too, which must then be the same.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moediff.core import artifact
from moediff.core.errors import ConfigError, UserError

MARK = ".made-in.json"
_IDENTITY = ".snakemake/moediff-identity"
_DECIDES_NOTHING = ("results", "plots", "device")


def config_digest(config: Mapping[str, Any]) -> str:
    """Digest of what of a config decides results."""
    return artifact.digest({key: config[key] for key in config if key not in _DECIDES_NOTHING})


def check(results: str, directory: Path, config: str) -> None:
    """Raise ConfigError where the results folder is that of another working directory, or no longer known to
    be of the config of this digest."""
    folder = Path(os.path.realpath(directory / results))
    mark = folder / MARK
    try:
        made_in = artifact.read_json(mark)
    except FileNotFoundError:
        return
    except UserError as error:
        raise ConfigError(f"results: {error}") from error
    home = Path(os.path.realpath(folder / made_in["folder"]))
    here = home == Path(os.path.realpath(directory))
    if here and not os.path.isabs(made_in["folder"]):
        if _identity(directory) is None and made_in.get("config", config) != config:
            raise ConfigError(
                f"results: {directory / '.snakemake'} is gone, by which is known how {folder} was made, and "
                "the config has changed since; put that folder or the former config back, or set results to "
                f"another folder (to take all that is there as made by this config: rm '{mark}')"
            )
        return
    moved = _identity(directory) == made_in["identity"]
    if moved and (here or _identity(home) != made_in["identity"]):
        return
    raise ConfigError(
        f"results: {folder} holds what was made in {home}, and only there is it known by which config; "
        f"set results to another folder, or run there (to take all of it as made by this config: "
        f"rm '{mark}')"
    )


def claim(results: str, directory: Path, config: str) -> None:
    """Mark the results folder as that of this working directory, as the first jobs are about to run.

    Raises ConfigError where another one was faster.
    """
    folder = Path(os.path.realpath(directory / results))
    inside = folder.is_relative_to(os.path.realpath(directory))
    place = os.path.relpath(directory, folder) if inside else os.path.realpath(directory)
    identity = _identity(directory)
    if identity is None:
        identity = uuid.uuid4().hex
        artifact.write_text(directory / _IDENTITY, identity + "\n")
    mark, own = folder / MARK, folder / f".made-in.{identity}.json"
    artifact.write_json(own, {"identity": identity, "folder": place, "config": config})
    try:
        os.link(own, mark)  # alone among ways to write it fails where there is one
    except FileExistsError:
        check(results, directory, config)
        os.replace(own, mark)
    except OSError:  # a file system without links
        os.replace(own, mark)
    finally:
        own.unlink(missing_ok=True)


def _identity(directory: Path) -> str | None:
    """What names a working directory, wherever it lies; None where it has no such name."""
    try:
        return (directory / _IDENTITY).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
