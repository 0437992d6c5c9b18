"""The user's text files by their names: which are tables, which are text, and which are neither."""

from __future__ import annotations

import re
from pathlib import Path

from moediff.config.base import Config, matching_files
from moediff.config.globs import glob_fault
from moediff.core.errors import ConfigError, shown

PARQUET, JSON_LINES, TEXT = "parquet", "JSON lines", "text"
_PARQUET = re.compile(r"\.parquet$", re.IGNORECASE)
_JSON_LINES = re.compile(r"\.(jsonl|ndjson|jsonlines|ldjson|json)(\.gz)?$", re.IGNORECASE)
# Anything else is one document of plain text, unless its last suffix is of what never is plain text.
_OTHERS = {
    "is a table; convert it to parquet or JSON lines": (
        "arrow avro csv db dta duckdb feather h5 hdf5 ipc mat msgpack npy npz ods orc pickle pkl psv "
        "pt rds safetensors sas7bdat sav sqlite sqlite3 tab tfrecord tsv xls xlsx"
    ),
    "is parquet by its suffix; name it .parquet": "parq pq",
    "is compressed; unpack it (of compressed files .jsonl.gz, .ndjson.gz and .json.gz are read)": (
        "7z br bz2 gz lz lz4 lzma lzo rar snappy sz tar tbz2 tgz txz xz z zip zst zstd"
    ),
    "is a document of another program; convert it to plain text": (
        "djvu doc docx epub mobi odt pdf ppt pptx rtf"
    ),
}
_WHY_NOT = {f".{suffix}": why for why, suffixes in _OTHERS.items() for suffix in suffixes.split()}


def text_format(path: str, group: str | None = None) -> str:
    """PARQUET, JSON_LINES or TEXT, by the name of a file. Raises ConfigError for what is none of them.

    So does plain text where a `group` column is named, which it cannot have.
    """
    name = Path(path).name
    if _PARQUET.search(name):
        return PARQUET
    if _JSON_LINES.search(name):
        return JSON_LINES
    why_not = _WHY_NOT.get(Path(name).suffix.strip().lower())
    if why_not:
        raise ConfigError(f"{path}: {why_not}")
    if group is not None:
        raise ConfigError(
            f"{path}: plain text, which has no column '{shown(group)}'; name it in a domain without "
            "`group`, or end the name of a table in .parquet or .jsonl"
        )
    return TEXT


def check_text_files(where: str, domain: Config) -> None:
    """That a `files` domain's globs find what they were meant for, and only what can be read as text."""
    for pattern in domain["paths"]:
        found = matching_files(pattern)
        fault = glob_fault(pattern, found)
        if fault:
            raise ConfigError(f"{where}.paths: {fault}")
        for path in found:
            try:
                text_format(path, domain["group"])
            except ConfigError as error:
                raise ConfigError(f"{where}.paths: {error}") from None
