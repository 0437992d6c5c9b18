"""Writing results: whole or absent, with what made them. Nothing else opens a result for writing.

NumPy, polars and torch are imported by the functions that need them: a job that gathers JSON has no use
for any of them.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moediff import __version__
from moediff.core import seal
from moediff.core.errors import DamagedError, UserError, refusal, unreadable, writing

if TYPE_CHECKING:
    import polars as pl

FORMAT = 3  # number of the layout of every file; a reader refuses another
JSON_FORMAT = 4  # of JSON files: 3 had no digest
_METADATA_KEY = "moediff"  # one key: safetensors writes several in a random order
_CONTENT = "content"  # digest of the values, inside the metadata


@contextmanager
def whole(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path`; flush and rename it to `path` only if all went well.

    What a killed process left under such a name is removed first. Raises UserError where the machine
    refuses to write: no space, no permission, no such folder.
    """
    with writing(Path(path)), _whole(Path(path)) as partial:
        yield partial


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        left.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)
    finally:
        if partial.exists():
            partial.unlink()


def _umask() -> int:
    """The process's mask of file modes, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
    import numpy as np

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
    if found not in (FORMAT, JSON_FORMAT):
        raise UserError(
            f"{path}: written in format {found}, this version reads {FORMAT}; remove it and run again"
        )


def write_json(path: Path | str, value: Mapping[str, Any]) -> None:
    """Write JSON of ours, with its format's number and a digest of all that it says."""
    facts = json.loads(canonical({**value, "format": JSON_FORMAT}))  # as it is read
    write_plain_json(path, {**facts, _CONTENT: digest(facts)})


def write_plain_json(path: Path | str, value: Mapping[str, Any]) -> None:
    """Write JSON that other programs read: sorted keys, two spaces of indentation, a closing newline."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: Path | str) -> dict[str, Any]:
    """Read what `write_json` wrote, without the digest. Raises DamagedError when a value is another.

    Format 3 had no digest. No single flipped bit makes a 3 of a 4, and a digest is compared wherever
    there is one: a file that had one is never taken for one of before.
    """
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
        content = facts.pop(_CONTENT, None)
        known = content is None or content == digest(facts)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise unreadable(path, "not a JSON file of ours", error) from error
    if content is None and facts.get("format") == JSON_FORMAT:
        raise DamagedError(path, "its digest is missing")
    if not known:
        raise DamagedError(path, "it does not match its digest")
    check_format(path, facts)
    return facts


def parquet_errors() -> tuple[type[BaseException], ...]:
    """What polars raises at a damaged table; some make it panic, which is not an Exception."""
    import polars as pl

    raised = pl.exceptions
    return raised.PolarsError, raised.PanicException, OSError, KeyError, ValueError


def literal(path: Path | str) -> Path:
    """The path of a table for polars, which is to be told `glob=False` and takes `~` for a home.

    Raises OSError where the file may not be read: polars does not say why it failed.
    """
    with open(path, "rb"):
        return Path(path).absolute()


def write_parquet(path: Path | str, frame: pl.DataFrame, provenance: Mapping[str, Any]) -> None:
    """Write a table (zstd) with its provenance in the file's metadata, and sealed."""
    with whole(path) as partial:
        metadata = {_METADATA_KEY: canonical(provenance)}
        frame.write_parquet(partial, compression="zstd", metadata=metadata)
        seal.put(partial)


def write_parquet_parts(
    path: Path | str, parts: Iterable[pl.DataFrame], provenance: Mapping[str, Any]
) -> None:
    """Write a table that comes part by part, of which two at most are in memory; each is a row group.

    A table of one part has the bytes that `write_parquet` gives it. Raises ValueError where none comes.
    """
    parts = iter(parts)
    first = next(parts, None)
    if first is None:
        raise ValueError(f"{path}: a table without a part")
    second = next(parts, None)
    if second is None:
        write_parquet(path, first, provenance)
        return
    from pyarrow import parquet

    with whole(path) as partial:
        table = first.to_arrow()
        metadata = {_METADATA_KEY: canonical(provenance)}
        schema = table.schema.with_metadata(metadata)
        with parquet.ParquetWriter(
            partial, schema, compression="zstd", write_statistics=False
        ) as file:
            file.write_table(table.replace_schema_metadata(metadata))
            del first, table  # while the others come
            while second is not None:
                file.write_table(second.to_arrow().replace_schema_metadata(metadata))
                del second
                second = next(parts, None)
        seal.put(partial)


def read_parquet(path: Path | str, columns: list[str] | None = None) -> pl.DataFrame:
    """Read a table of ours; raise DamagedError when it is cut or altered.

    The seal is looked at first: of a damaged length polars asks for so much memory that the process ends.
    Tables of before have no seal, and a digest of each column.
    """
    import polars as pl

    try:
        place = literal(path)
        sealed = seal.unbroken(place)
        facts = json.loads(pl.read_parquet_metadata(place)[_METADATA_KEY])
        frame = pl.read_parquet(place, columns=columns, glob=False)
        wanted = {} if sealed else {name: facts[_CONTENT][name] for name in frame.columns}
    except FileNotFoundError:
        raise
    except parquet_errors() as error:
        raise unreadable(path, "not a whole parquet file", error) from error
    for name, content in wanted.items():
        if _column_digest(frame[name]) != content:
            raise DamagedError(path, f"its column '{name}' does not match its digest")
    return frame


def parquet_parts(path: Path | str, columns: list[str]) -> Iterator[pl.DataFrame]:
    """The columns of a table of ours, one row group in memory after another; damage as `read_parquet`.

    A table of before, which has no seal, comes whole: its digests are of whole columns.
    """
    import polars as pl
    from pyarrow import parquet

    try:
        with literal(path).open("rb") as file:
            sealed = seal.unbroken(Path(path))
            table = parquet.ParquetFile(file, pre_buffer=False)
            if missing := set(columns) - set(table.schema_arrow.names):
                raise KeyError(*missing)
            for number in range(table.num_row_groups if sealed else 0):
                yield pl.DataFrame(pl.from_arrow(table.read_row_group(number, columns)))
    except FileNotFoundError:
        raise
    except parquet_errors() as error:
        raise unreadable(path, "not a whole parquet file", error) from error
    if not sealed:
        yield read_parquet(path, columns)


def _column_digest(column: pl.Series) -> str:
    """Digest of a column's values and missing values, without a second copy of all text."""
    import polars as pl

    seen = hashlib.sha256(f"{column.dtype}{len(column)}".encode())
    seen.update(column.is_null().to_numpy().tobytes())
    if column.dtype == pl.String:
        seen.update(column.str.len_bytes().fill_null(0).to_numpy().tobytes())
        for start in range(0, len(column), 1024):
            seen.update("".join(column[start : start + 1024].drop_nulls()).encode())
    else:
        seen.update(column.fill_null(0).to_numpy().tobytes())
    return seen.hexdigest()[:32]


def write_tensors(path: Path | str, tensors: Mapping[str, Any], metadata: Mapping) -> None:
    """Write torch tensors as safetensors; as one key of sorted JSON `metadata`, and a digest of both."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    facts = json.loads(canonical(metadata))  # as they are read
    content = digest(_tensor_digest(plain), facts)
    with whole(path) as partial:
        save_file(plain, partial, metadata=sealed(facts, content))
        partial.chmod(0o666 & ~_umask())  # safetensors lets the owner alone read it


def sealed(facts: Mapping[str, Any], content: str) -> dict[str, str]:
    """What a file of tensors holds beside them: `facts`, and the digest of tensors and facts."""
    return {_METADATA_KEY: canonical({**facts, _CONTENT: content})}


def digest_tensors(path: Path | str) -> str:
    """Digest of a file's tensors, which are read as they are needed, not held."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return _tensor_digest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def read_tensors(path: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read safetensors and the metadata that `write_tensors` put beside them.

    Raises DamagedError when the file is cut, altered, or not one of ours. Files of before have a digest
    of the tensors alone, which no file with one of both can hold.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[_METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            content = metadata.pop(_CONTENT)
        alone = _tensor_digest(tensors)
        known = content in (alone, digest(alone, metadata))
    except FileNotFoundError as error:  # so it says of a file without permission too
        refused = refusal(path, error)
        if refused:
            raise refused from error
        raise
    except (SafetensorError, LookupError, ValueError, TypeError, AttributeError, OSError) as error:
        raise unreadable(path, "not a whole safetensors file", error) from error
    if not known:
        raise DamagedError(path, "its tensors or what is said of them do not match their digest")
    return tensors, metadata


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What `write_tensors` put beside tensors, which are neither read nor compared with their digest.

    Raises DamagedError when the file is cut, or not one of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return json.loads((file.metadata() or {})[_METADATA_KEY])
    except FileNotFoundError:
        raise
    except (SafetensorError, LookupError, ValueError, OSError) as error:
        raise unreadable(path, "not a whole safetensors file", error) from error


def _tensor_digest(tensors: Mapping[str, Any]) -> str:
    """Digest of tensors on the CPU by name, bytes as they are (numpy has no bfloat16)."""
    import torch

    parts: list[Any] = []
    for name in sorted(tensors):
        tensor = tensors[name]
        parts += [name, str(tensor.dtype), list(tensor.shape)]
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest(*parts)


def move_whole(source: Path | str, target: Path | str) -> None:
    """Rename one file, or copy it whole and remove it where `target` lies on another disk."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_whole(source, target)
        os.unlink(source)


def copy_whole(source: Path | str, target: Path | str) -> None:
    """Copy one file so that `target` appears whole."""
    with whole(target) as partial:
        shutil.copyfile(source, partial)
