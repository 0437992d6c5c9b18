"""A digest of a parquet file inside it, compared before anything opens the file as a table.

It stands between the data and the footer, where no reader of parquet looks: a footer is found from the
file's end and names places from the file's start, so that no place changes.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

MARK = b"moediff's seal: "
_SIZE = len(MARK) + hashlib.sha256().digest_size
_BLOCK = 1 << 22  # bytes that are digested at once


def put(path: Path) -> None:
    """Seal a parquet file that has no seal."""
    with open(path, "r+b") as file:
        place = _footer(file)
        seal = MARK + _digest_around(file, place, place)
        file.seek(place)
        footer = file.read()
        file.seek(place)
        file.write(seal + footer)


def unbroken(path: Path) -> bool:
    """Whether a parquet file has a seal. Raises ValueError where it is cut or does not match it."""
    with open(path, "rb") as file:
        footer = _footer(file)
        place = max(0, footer - _SIZE)
        file.seek(place)
        seal = file.read(_SIZE)
        if seal.startswith(MARK):
            if seal != MARK + _digest_around(file, place, footer):
                raise ValueError("it does not match its digest")
            return True
        file.seek(0)
        if MARK in file.read():  # one flipped bit cannot both move the footer and hide the seal
            raise ValueError("its footer is not where it says")
    return False


def _footer(file: BinaryIO) -> int:
    """Where the footer of a parquet file begins. Raises ValueError where the file has no end."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 8))
    length, mark = int.from_bytes(file.read(4), "little"), file.read()
    if mark != b"PAR1" or length > end - 12:
        raise ValueError("it has no end")
    return end - 8 - length


def _digest_around(file: BinaryIO, first: int, last: int) -> bytes:
    """SHA-256 of a file without the bytes first..last."""
    seen = hashlib.sha256()
    file.seek(0)
    while block := file.read(min(first - file.tell(), _BLOCK)):
        seen.update(block)
    file.seek(last)
    while block := file.read(_BLOCK):
        seen.update(block)
    return seen.digest()
