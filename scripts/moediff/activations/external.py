"""External activations -> an activation shard.

A shard of theirs is one safetensors file, or one folder of .npy files, that holds activations
[row, d_model] and what each row is: its token, document and position, and where they are known its
sequence, group and domain. The columns get the types of our own shards, so that the same digest proves
two sources' rows to be the same tokens in the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from moediff.activations.shard_writer import ShardWriter
from moediff.activations.shards import EXTERNAL, TYPES, Stored, scale_exponent
from moediff.config.rows import row_files
from moediff.core import artifact
from moediff.core.errors import UserError, first_line, reading

_PLACE = ("token", "document", "position")  # without these nothing is proved
_FLOATS = ("float16", "bfloat16", "float32")
_SAFETENSORS = {"BF16": "bfloat16", "BOOL": "bool"}
_KINDS = {"F": "float", "I": "int", "U": "uint"}
CALIBRATION_ROWS = 8192


# --- files ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Array:
    """One array of a file: its shape, the name of its type, and the rows start..stop as NumPy's."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[int, int], np.ndarray]


def open_arrays(path: Path | str) -> dict[str, Array]:
    """The arrays of a safetensors file or of a folder of .npy files, by name; none is read yet.

    Raises UserError when a file is cut, or holds pickled objects.
    """
    if not Path(path).is_dir():
        return _open_safetensors(path)
    return {Path(file).stem: _open_npy(file) for file in row_files(str(path))}


def _open_npy(path: str) -> Array:
    with _naming(path):
        # Unlike numpy.load, this opens neither pickles nor zips.
        mapped = np.lib.format.open_memmap(path, mode="r")
    return Array(mapped.shape, mapped.dtype.name, lambda start, stop: mapped[start:stop])


def _open_safetensors(path: Path | str) -> dict[str, Array]:
    with _naming(path):
        file = safe_open(path, framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118

    def array(part: Any) -> Array:
        def read(start: int, stop: int) -> np.ndarray:
            values = part[start:stop]
            # NumPy has no bfloat16.
            return (values.float() if values.dtype == torch.bfloat16 else values).numpy()

        return Array(tuple(part.get_shape()), _type_name(part.get_dtype()), read)

    return {name: array(part) for name, part in slices.items()}


def _type_name(name: str) -> str:
    """NumPy's name of a type of safetensors: F16 is float16."""
    return _SAFETENSORS.get(name) or _KINDS.get(name[0], name[0]) + name[1:]


@contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    try:
        with reading(Path(path)):
            with open(path, "rb"):  # safetensors does not say why it failed
                pass
            yield
    except (SafetensorError, OSError, ValueError, EOFError, OverflowError, RecursionError) as error:
        kind = Path(path).suffix.removeprefix(".")
        raise UserError(
            f"{path}: not a whole {kind} file of plain numbers ({first_line(error)}); write it again"
        ) from error


# --- rows and columns -------------------------------------------------------------------------


def open_rows(path: Path | str, name: str) -> tuple[Array, dict[str, Array]]:
    """The activations [row, d_model], and all arrays of their file by name.

    Raises UserError when an array that is needed is missing, or the activations are not a matrix
    of floats.
    """
    arrays = open_arrays(path)
    missing = [needed for needed in (name, *_PLACE) if needed not in arrays]
    if missing:
        why = (
            f"set rows.array to one of {', '.join(sorted(arrays))}"
            if missing[0] == name
            else "rows without token, document and position cannot be proved aligned"
        )
        raise UserError(f"{path}: has no '{missing[0]}'; {why}")
    rows = arrays[name]
    if len(rows.shape) != 2 or not all(rows.shape):
        raise UserError(f"{path}: '{name}' is of shape {list(rows.shape)}, not [row, d_model]")
    if rows.dtype not in _FLOATS:
        raise UserError(f"{path}: '{name}' is {rows.dtype}; write one of {', '.join(_FLOATS)}")
    return rows, arrays


def columns_of(
    path: Path | str, arrays: Mapping[str, Array], count: int, domains: Sequence[str]
) -> dict[str, np.ndarray]:
    """The columns [row] of `count` rows in the types of our own shards.

    What is not there (sequence, start, end) is 0 throughout; so is a domain, where there is only
    one. A document without a group is a group by itself. Raises UserError when a column does not
    fit, or two rows stand at one place.
    """
    columns = {
        name: _column(path, name, arrays[name], count)
        if name in arrays
        else np.zeros(count, TYPES[name])
        for name in TYPES
    }
    if "group" not in arrays:
        columns["group"] = columns["document"]
    if "domain" not in arrays and len(domains) > 1:
        raise UserError(
            f"{path}: has no 'domain', and its rows are of several ({', '.join(domains)}); write "
            "it, or set rows.domains to one name"
        )
    largest = int(columns["domain"].max())
    if largest >= len(domains):
        raise UserError(
            f"{path}: a row is of domain {largest}, the names end at {len(domains) - 1} "
            f"({', '.join(domains)}); set rows.domains"
        )
    _refuse_same_place(path, columns)
    return columns


def _column(path: Path | str, name: str, array: Array, count: int) -> np.ndarray:
    if array.shape != (count,):
        raise UserError(f"{path}: '{name}' is of shape {list(array.shape)}, there are {count} rows")
    if not array.dtype.startswith(("int", "uint")):
        raise UserError(f"{path}: '{name}' is {array.dtype}, not of whole numbers")
    values, wanted = array.read(0, count), TYPES[name]
    low, high, bounds = int(values.min()), int(values.max()), np.iinfo(wanted)
    if low < bounds.min or high > bounds.max:
        odd = low if low < bounds.min else high
        raise UserError(f"{path}: '{name}' holds {odd}, outside {bounds.min} to {bounds.max}")
    return values.astype(wanted)


def _refuse_same_place(path: Path | str, columns: Mapping[str, np.ndarray]) -> None:
    """Columns that do not tell rows apart would agree between sources and prove nothing."""
    places = [columns[name] for name in ("position", "document", "sequence")]
    order = np.lexsort(places)
    same = np.logical_and.reduce([np.diff(values[order]) == 0 for values in places])
    if same.any():
        first = int(same.argmax())
        one, two = sorted(order[first : first + 2].tolist())
        raise UserError(
            f"{path}: rows {one} and {two} stand at one place; sequence, document and position "
            "together must tell rows apart"
        )


# --- shards -----------------------------------------------------------------------------------


def measure(path: Path | str, name: str, dtype: str) -> dict[str, Any]:
    """Of the first file of fit rows: width, root mean square over its first rows, and exponent.

    Its digest stands for the model, of which nothing else is known. Values that are not finite are
    left to the job that writes them, which names their document.
    """
    rows, _ = open_rows(path, name)
    values = rows.read(0, CALIBRATION_ROWS).astype(np.float64)
    finite = values[np.isfinite(values)]
    rms = float(np.sqrt((finite**2).mean())) if finite.size else 0.0
    return {
        "model": artifact.digest(artifact.digest_files(row_files(str(path))), name),
        "rms": rms,
        "exponent": scale_exponent(rms, dtype),
        "d_model": rows.shape[1],
    }


def convert(
    source: Path | str,
    name: str,
    domains: Sequence[str],
    dtype: str,
    chunk_rows: int,
    measured: Mapping[str, Any],
    path: Path | str,
    made_by: Mapping[str, Any],
) -> int:
    """Write the activation shard of one file of theirs, as `measure` found; its number of rows."""
    rows, arrays = open_rows(source, name)
    count, width = rows.shape
    if width != measured["d_model"]:
        raise UserError(
            f"{source}: its rows are {width} wide, those of the first fit file {measured['d_model']}"
        )
    columns = columns_of(source, arrays, count, domains)
    stored = {EXTERNAL: Stored(EXTERNAL, width, measured["exponent"])}
    writer = ShardWriter(path, columns, stored, dtype, chunk_rows, source)
    for start in range(0, count, chunk_rows):
        block = rows.read(start, start + chunk_rows).astype(np.float32)
        writer.add({EXTERNAL: torch.from_numpy(block)})
    writer.write(
        {
            **made_by,
            "model": measured["model"],
            "domains": list(domains),
            "tokens": count,
            "left_out": {},
            "alignment": None,
            "tokenizer": None,  # not known: the tokens themselves must agree
            **({} if "group" in arrays else {"groups_digest": None}),
        }
    )
    return count
