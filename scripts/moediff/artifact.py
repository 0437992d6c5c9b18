"""Writing results: whole or absent, with what made them. Nothing else opens a result for writing."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from moediff import __version__
from moediff.errors import DamagedError, UserError

FORMAT = 1  # number of the layout of every file; a reader refuses another
_METADATA_KEY = "moediff"  # one key: safetensors writes several in a random order


@contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path`; flush and rename it to `path` only if all went well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)
    finally:
        if partial.exists():
            partial.unlink()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def made_by(stage: str, **facts: Any) -> dict[str, Any]:
    """Provenance of a file: stage, what it was made from, and the versions that made it.

    Holds no time, host or path, so that equal work gives equal bytes.
    """
    libraries = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    return {
        "format": FORMAT,
        "stage": stage,
        **facts,
        "versions": libraries | {"moediff": __version__, "python": platform.python_version()},
    }


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(*parts: Any) -> str:
    """Hex SHA-256 (first 32 digits) of JSON values, bytes and arrays, in order."""
    seen = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            seen.update(f"{part.dtype.str}{part.shape}".encode())
            seen.update(np.ascontiguousarray(part).view(np.uint8).data)
        elif isinstance(part, bytes):
            seen.update(part)
        else:
            seen.update(canonical(part).encode())
        seen.update(b"\0")
    return seen.hexdigest()[:32]


def digest_files(paths: Iterable[Path | str]) -> str:
    """Digest of the contents of files, in the order given."""
    seen = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as handle:
            while block := handle.read(1 << 22):
                seen.update(block)
        seen.update(b"\0")
    return seen.hexdigest()[:32]


def check_format(path: Path | str, provenance: Mapping[str, Any]) -> None:
    """Raise UserError when a file was written in another layout than this version reads."""
    found = provenance.get("format")
    if found != FORMAT:
        raise UserError(
            f"{path}: written in format {found}, this version reads {FORMAT}; remove it and run again"
        )


def write_json(path: Path | str, value: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys, two spaces of indentation and a closing newline."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON file; raise DamagedError when it is not whole."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedError(path, f"not valid JSON ({error})") from error


def write_parquet(path: Path | str, frame: pl.DataFrame, provenance: Mapping[str, Any]) -> None:
    """Write a table (zstd) with its provenance in the file's metadata."""
    with whole(path) as partial:
        frame.write_parquet(
            partial, compression="zstd", metadata={_METADATA_KEY: canonical(provenance)}
        )


def read_parquet(path: Path | str, columns: list[str] | None = None) -> pl.DataFrame:
    """Read a table; raise DamagedError when it is not whole."""
    try:
        return pl.read_parquet(path, columns=columns)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DamagedError(path, f"not a whole parquet file ({_first_line(error)})") from error


def write_tensors(path: Path | str, tensors: Mapping[str, Any], metadata: Mapping) -> None:
    """Write torch tensors as safetensors, `metadata` as one key of sorted JSON."""
    from safetensors.torch import save_file

    with whole(path) as partial:
        save_file(
            {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
            partial,
            metadata={_METADATA_KEY: canonical(metadata)},
        )


def read_tensors(path: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read safetensors and the metadata that `write_tensors` put beside them.

    Raises DamagedError when the file is cut, altered in its header, or not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[_METADATA_KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise DamagedError(path, f"not a whole safetensors file ({_first_line(error)})") from error


def state_folder(results: Path | str, stage: str, *key: Any) -> Path:
    """Folder of a long job's checkpoints, outside every output, named by a digest of `key`.

    Snakemake deletes a job's outputs before it starts again; what must survive lives here.
    """
    return Path(results) / "state" / f"{stage}-{digest(*key)}"


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Any], metadata: Mapping, keep: int = 2
) -> None:
    """Write checkpoint `step` into `folder` whole, then drop all but the newest `keep`."""
    write_tensors(folder / f"step-{step:09d}.safetensors", tensors, {"step": step, **metadata})
    for old in sorted(folder.glob("step-*.safetensors"))[:-keep]:
        old.unlink()


def newest_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Tensors and metadata of the newest whole checkpoint; damaged ones are passed over."""
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            return read_tensors(path)
        except DamagedError:
            continue
    return None


def copy_whole(source: Path | str, target: Path | str) -> None:
    """Copy one file so that `target` appears whole."""
    with whole(target) as partial:
        shutil.copyfile(source, partial)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
