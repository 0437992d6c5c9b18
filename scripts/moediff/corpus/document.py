"""A document, and how a row of any table becomes one: its text, its name, its group."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from moediff.core import artifact
from moediff.core.errors import UserError, one_line
from moediff.corpus import group_search

TOGETHER = 4096  # documents whose groups are searched at once


class Document(NamedTuple):
    """A text, what it is called, and the group that keeps it in one split with its kin."""

    text: str
    source: str
    group: str


def row_documents(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    column: str,
    group: str | None,
    group_pattern: str | None,
) -> Iterator[Document]:
    """Documents of named rows; a row's group is the row itself unless a column is named.

    Raises UserError for a row without text or group, half a character in either, a group in which
    `group_pattern` finds nothing, and a pattern that does not come to an end.
    """
    named = ((name, _row_document(row, name, column, group)) for name, row in rows)
    if group_pattern is None:
        yield from (document for _, document in named)
        return
    while some := list(islice(named, TOGETHER)):
        yield from _regrouped(some, group_pattern)


def group_id(domain: str, group: str) -> int:
    """Stable id of a group, made as ids of documents are; one name in two domains is two groups."""
    return int(artifact.digest(domain.encode(), group.encode())[:15], 16)


def has_half_characters(text: str) -> bool:
    """Whether a lone surrogate stands in a text: no encoding can write it down."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _row_document(row: Mapping[str, Any], name: str, column: str, group: str | None) -> Document:
    text = row.get(column)
    if not isinstance(text, str):
        keys = one_line(", ".join(row), 400)
        raise UserError(f"{name}: no text under '{one_line(column, 80)}'; keys: {keys}")
    if has_half_characters(text):
        raise UserError(f"{name}: half a character (a lone surrogate) stands in its text; mend it")
    if group is None:
        return Document(text, name, name)
    value = row.get(group)
    # NaN is what tables of numbers write for no value, and no number equals itself less.
    if value is None or value != value or value == "":
        raise UserError(f"{name}: no value under the group '{one_line(group, 80)}'")
    value = _group_name(value)
    if has_half_characters(value):
        raise UserError(
            f"{name}: half a character (a lone surrogate) stands in its group '{one_line(value, 80)}'"
        )
    return Document(text, value, value)


def _group_name(value: Any) -> str:
    """A group in words, the same however a table writes it: 1 and 1.0, fields in any order."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return str(value)


def _regrouped(named: list[tuple[str, Document]], pattern: str) -> Iterator[Document]:
    """Documents whose group is what a regular expression finds in the group that they had."""
    values = [document.group for _, document in named]
    about = f"group_pattern '{one_line(pattern, 80)}'"
    try:
        found = group_search.search(pattern, values, group_search.SECONDS)
    except group_search.Endless as endless:
        raise UserError(
            f"{named[values.index(endless.name)][0]}: {about} comes to no end on "
            f"'{one_line(endless.name, 80)}' in {group_search.SECONDS:g} s; "
            "write it without a repetition inside a repetition"
        ) from endless
    except RuntimeError as error:
        raise UserError(f"{named[0][0]}: {about} cannot be searched ({error})") from error
    for (name, document), part in zip(named, found, strict=True):
        if not part:
            raise UserError(f"{name}: {about} finds nothing in '{one_line(document.group, 80)}'")
        yield document._replace(group=part)
