"""Text sources: where the documents of a domain come from. One function a kind of source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import polars as pl

from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError, first_line, unreadable
from moediff.corpus.document import Document, row_documents
from moediff.corpus.installed import docstrings, prose, stdlib
from moediff.corpus.seen import Seen
from moediff.corpus.tales import tales
from moediff.corpus.text_files import MARK, files

# Text of a row group of a domain's table, and a last document. A table of one group, as all of ours were,
# is written as it was before there were several.
PART_BYTES = 1 << 25


def generated(seed: int) -> Iterator[Document]:
    """An endless stream of generated tales, each its own group."""
    for number, text in enumerate(tales(seed)):
        yield Document(text, f"tale/{seed}/{number}", f"tale/{seed}/{number}")


def hub(
    id: str,
    revision: str,
    config: str | None,
    files: str | None,
    split: str,
    column: str,
    group: str | None,
    group_pattern: str | None,
) -> Iterator[Document]:
    """Documents of a Hub data set, streamed at a pinned revision; no code of the Hub is run.

    Raises UserError when the Hub cannot be reached or has no such data set.
    """
    import datasets

    try:
        stream = datasets.load_dataset(
            id, config, split=split, revision=revision, data_files=files, streaming=True
        )
        rows = ((f"{id}#{number}", row) for number, row in enumerate(stream))
        yield from row_documents(rows, column, group, group_pattern)
    except UserError:
        raise
    except Exception as error:  # the Hub's client raises a dozen unrelated classes
        raise UserError(
            f"Hub data set '{id}' at {revision} cannot be read "
            f"({type(error).__name__}: {first_line(error)}); check the network, the id and the revision, "
            "or name local files with source: files"
        ) from error


TEXT_SOURCES: dict[str, Callable[..., Iterator[Document]]] = {
    "stdlib": stdlib,
    "docstrings": docstrings,
    "prose": prose,
    "tales": generated,
    "files": files,
    "hub": hub,
}


def assign_split(group: str, fit: float, validation: float) -> str:
    """Split of a group, by its hash: the same group is in the same split whatever else there is."""
    point = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    if point < validation:
        return "validation"
    return "fit" if point < validation + fit else "train"


def documents(
    name: str,
    settings: Mapping[str, Any],
    splits: Mapping[str, float],
    most_bytes: int | None,
) -> Iterator[pl.DataFrame]:
    """The documents of one domain, table after table of about PART_BYTES of text: text, source, document
    (stable id), group, split.

    Where the settings have them, documents whose source one of the globs `skip` matches are left out, and
    others cut off after `longest` characters. A byte-order mark is no part of a text. Exact duplicates are
    dropped, the first kept. Reading stops after `most_bytes` of text. Memory is that of one table, and 8
    bytes a document, by which a duplicate is known.
    """
    common = ("source", "skip", "longest")
    keys = {key: value for key, value in settings.items() if key not in common}
    skip, longest = settings.get("skip", ()), settings.get("longest")
    seen, part = Seen(), _Part()
    size = 0
    for text, source, group in TEXT_SOURCES[settings["source"]](**keys):
        text = text.lstrip(MARK)[:longest]
        if not text.strip() or any(fnmatchcase(source, pattern) for pattern in skip):
            continue
        content = text.encode()
        identity = _content_id(content)
        if seen.add(int(identity, 16)):
            if part.full:
                yield part.table()
                part = _Part()
            part.add(len(content), (text, source, identity, group, assign_split(group, **splits)))
            size += len(content)
        if most_bytes is not None and size >= most_bytes:
            break
    if not seen:
        raise UserError(f"domain '{name}': its source ({settings['source']}) gave no text at all")
    yield part.table()


class _Part:
    """Rows of a table of documents, until they are enough."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str, str]] = []
        self.size = 0

    @property
    def full(self) -> bool:
        return self.size >= PART_BYTES

    def add(self, size: int, row: tuple[str, str, str, str, str]) -> None:
        """A document whose text has `size` bytes."""
        self.rows.append(row)
        self.size += size

    def table(self) -> pl.DataFrame:
        columns = ["text", "source", "document", "group", "split"]
        return pl.DataFrame(self.rows, schema=columns, orient="row")


def document_id(text: str) -> str:
    """Stable id of a document: 15 hex digits of its text's SHA-256, which fit a signed 64-bit integer."""
    return _content_id(text.encode())


def _content_id(content: bytes) -> str:
    return artifact.digest(content)[:15]


def find_texts(corpus: Sequence[Path | str], documents: Iterable[int]) -> dict[int, str]:
    """Texts by id of these documents (ids as integers) of tables that `documents` gave.

    Only the rows asked for are decoded, so that the digest of the column of all texts cannot be
    checked; the id, which is a digest of its text, is checked instead. Raises UserError for an id
    that is in no table, DamagedError for a text that is not its id's.
    """
    missing = {f"{document:015x}" for document in documents}
    found: dict[int, str] = {}
    for path in corpus:
        for identity, text in _rows_of(path, missing):
            if document_id(text) != identity:
                raise DamagedError(path, f"the text of document {identity} is not the one it had")
            found[int(identity, 16)] = text
        missing -= {f"{document:015x}" for document in found}
    if missing:
        raise UserError(
            f"document {min(missing)} is in none of {', '.join(map(str, corpus))} "
            f"({len(missing)} are missing); the token shard is of other text: remove it and run again"
        )
    return found


def _rows_of(path: Path | str, identities: set[str]) -> Iterator[tuple[str, str]]:
    """Id and text of the rows with these ids."""
    wanted = pl.col("document").is_in(list(identities))
    try:
        rows = pl.scan_parquet(artifact.literal(path), glob=False).filter(wanted)
        found = rows.select("document", "text").collect()
    except FileNotFoundError:
        raise
    except artifact.parquet_errors() as error:
        raise unreadable(path, "not a whole parquet file", error) from error
    return found.iter_rows()
