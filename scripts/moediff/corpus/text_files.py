"""Documents of the user's own files: parquet, JSON lines, plain text. Nothing is told to be removed."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl

from moediff.config.base import matching_files
from moediff.config.globs import glob_fault
from moediff.config.text_files import JSON_LINES, PARQUET, TEXT, text_format
from moediff.core import artifact
from moediff.core.errors import UserError, first_line, one_line, reading
from moediff.corpus.document import Document, row_documents

MARK = "\ufeff"  # byte-order mark: how bytes were written, not text
ROWS_AT_ONCE = 1024  # of a parquet file
# First bytes of files that are no plain text, whatever their name says.
_BEGINNINGS = {
    b"PAR1": "parquet; name it .parquet",
    b"ARROW1": "an Arrow table; convert it to parquet",
    b"FEA1": "a Feather table; convert it to parquet",
    b"Obj\x01": "an Avro table; convert it to parquet",
    b"\x89HDF\r\n": "an HDF5 file; convert it to parquet or text",
    b"SQLite format 3": "a database; convert it to parquet",
    b"\x93NUMPY": "a NumPy array; convert it to parquet or text",
    b"\x1f\x8b": "compressed by gzip; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it",
    b"\xfd7zXZ\0": "compressed by xz; unpack it",
    b"BZh": "compressed by bzip2; unpack it",
    b"\x04\x22\x4d\x18": "compressed by lz4; unpack it",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"%PDF-": "a PDF document; convert it to text",
}


def files(
    paths: list[str], column: str, group: str | None, group_pattern: str | None
) -> Iterator[Document]:
    """Documents of parquet, JSON lines and text files. A text file is one document, one group.

    A row's group is the row itself unless a column is named. Raises UserError for a glob that matches
    nothing or means a name of its own letters, a file that is none of the three or cannot be read, a
    missing column, a row without text, and text that is not UTF-8.
    """
    found = [file for pattern in paths for file in _matches(pattern, group)]
    for kind, some in groupby(found, key=itemgetter(1)):
        if kind == TEXT:
            for path, _ in some:
                yield Document(_plain_text(Path(path), column), path, path)
        else:  # those of all files together: a pattern is searched in many groups at once
            rows = (row for path, _ in some for row in _named_rows(path, kind, column, group))
            yield from row_documents(rows, column, group, group_pattern)


def _matches(pattern: str, group: str | None) -> list[tuple[str, str]]:
    """Paths that a glob matches, with their formats."""
    matches = matching_files(pattern)
    fault = glob_fault(pattern, matches)
    if fault:
        raise UserError(f"files: {fault}")
    return [(path, text_format(path, group)) for path in matches]


def _named_rows(
    path: str, kind: str, column: str, group: str | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    wanted = list(dict.fromkeys([column, *([group] if group else [])]))
    read = {PARQUET: _parquet_rows, JSON_LINES: _json_rows}[kind]
    for number, row in enumerate(read(Path(path), wanted)):
        yield f"{path}#{number}", row


# --- tables -----------------------------------------------------------------------------------


def _parquet_rows(path: Path, wanted: list[str]) -> Iterator[Mapping[str, Any]]:
    from pyarrow import parquet

    with reading(path):
        place = artifact.literal(path)
    try:
        table = pl.scan_parquet(place, glob=False)
        found = table.collect_schema().names()
    except artifact.parquet_errors() as error:
        raise UserError(f"{path}: not a parquet file ({first_line(error)})") from error
    for name in wanted:
        if name not in found:
            columns = one_line(", ".join(found), 400)
            raise UserError(f"{path}: no column '{one_line(name, 80)}'; columns: {columns}")
    damage: tuple[type[BaseException], ...] = (
        *artifact.parquet_errors(),
        NotImplementedError,
        TypeError,
    )
    try:
        # By pyarrow: polars reads several row groups ahead, which may be a whole file.
        with parquet.ParquetFile(place, pre_buffer=False) as pieces:
            for piece in pieces.iter_batches(ROWS_AT_ONCE, columns=wanted):
                yield from pl.DataFrame(pl.from_arrow(piece)).iter_rows(named=True)
    except damage as error:
        raise UserError(f"{path}: a damaged parquet file ({first_line(error)})") from error


def _json_rows(path: Path, wanted: list[str]) -> Iterator[Mapping[str, Any]]:
    offset = 0
    try:
        with reading(path), _opened(path) as lines:
            for number, line in enumerate(lines, start=1):
                # Files with marks that were joined have one inside, too.
                text = _utf8(line, path, offset).lstrip(MARK)
                offset += len(line)
                if text.strip():
                    yield _json_row(text, f"{path}:{number}", wanted)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({first_line(error)})") from error


def _opened(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb")


def _json_row(text: str, where: str, wanted: list[str]) -> Mapping[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {_json_fault(text, error)}") from error
    if not isinstance(row, dict):
        raise UserError(
            f"{where}: each line must be a JSON object with named fields, not a "
            f"{type(row).__name__}; write one object a line"
        )
    # A field that stands twice: the last would be taken and the first lost. It may be written in several
    # ways, as it is or with its letters by number.
    written = (json.dumps(name, ensure_ascii=False) for name in wanted)
    if "\\u" in text or any(text.count(word) > 1 for word in written):
        names = [key for key, _ in json.loads(text, object_pairs_hook=list)]
        for name in wanted:
            if names.count(name) > 1:
                raise UserError(f"{where}: the field '{one_line(name, 80)}' stands twice; keep one")
    return row


def _json_fault(text: str, error: ValueError | RecursionError) -> str:
    """Why a line is no JSON object, in words."""
    if isinstance(error, RecursionError):
        return "nested too deeply to be read; leave out that field"
    if not isinstance(error, json.JSONDecodeError):  # of Python's: it reads no number so long
        return (
            f"a whole number of more than {sys.get_int_max_str_digits()} digits; write it as text"
        )
    if text.lstrip().startswith("["):
        return "a JSON list over several lines; write one object a line"
    if text.strip() == "{":
        return "a JSON object over several lines; write each on one line"
    if error.msg == "Extra data":
        return "more than one object on a line; write one object a line"
    return f"not JSON ({error.msg})"


# --- plain text -------------------------------------------------------------------------------


def _plain_text(path: Path, column: str) -> str:
    """Text of a file. Raises UserError where its content is that of a table, an archive, a program's."""
    with reading(path):
        data = path.read_bytes()
    for beginning, kind in _BEGINNINGS.items():
        if data.startswith(beginning):
            raise UserError(f"{path}: {kind}")
    text = _utf8(data, path)
    if "\0" in text:
        place = data.index(0)
        raise UserError(
            f"{path}: byte {place} is 0, which no text has (UTF-16, or a program's file?); convert it "
            "to UTF-8 first"
        )
    if _is_json_lines(text, column):
        raise UserError(
            f"{path}: its first line is a JSON object with '{one_line(column, 80)}'; name the file .jsonl"
        )
    return text


def _is_json_lines(text: str, column: str) -> bool:
    first = text.lstrip(MARK).lstrip().partition("\n")[0]
    if not first.startswith("{"):
        return False
    try:
        return isinstance(json.loads(first).get(column), str)
    except (ValueError, RecursionError):
        return False


def _utf8(data: bytes, path: Path, offset: int = 0) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text (byte {offset + error.start} is {data[error.start]:#04x}); "
            "convert it first"
        ) from error
