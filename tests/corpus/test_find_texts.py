"""Texts found again by the ids of their documents, and damage that is noticed."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from conftest import sentences
from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError
from moediff.corpus.sources import document_id, find_texts


def test_texts_are_found_by_their_ids(corpus: Callable) -> None:
    texts = sentences(50, 1)
    paths = list(corpus(a={"fit": texts[:30]}, b={"train": texts[20:]}).values())
    wanted = {int(document_id(text), 16): text for text in (texts[3], texts[25], texts[49])}
    assert find_texts(paths, wanted) == wanted
    assert find_texts(paths, []) == {}


def test_an_unknown_document_is_named(corpus: Callable) -> None:
    texts = sentences(5, 1)
    paths = list(corpus(a={"fit": texts}).values())
    known, unknown = int(document_id(texts[0]), 16), document_id("not there")
    with pytest.raises(UserError, match=f"document {unknown} is in none of .*a.parquet"):
        find_texts(paths, [known, int(unknown, 16)])


def test_a_text_that_was_changed_or_cut_is_noticed(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"document": [document_id("one"), document_id("two")], "text": ["one", "2"]}
    )
    path = tmp_path / "a.parquet"
    artifact.write_parquet(path, frame, {})
    assert find_texts([path], [int(document_id("one"), 16)])
    with pytest.raises(DamagedError, match=document_id("two")):
        find_texts([path], [int(document_id("two"), 16)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedError, match="not a whole parquet file"):
        find_texts([path], [1])
