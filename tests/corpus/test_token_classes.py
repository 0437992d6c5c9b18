"""Classes of tokens: what each takes and what it leaves, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from moediff.corpus import token_classes


def classed(name: str, texts: list[str], starts: tuple[int, ...] = (0,)) -> list[str]:
    begins = np.isin(np.arange(len(texts)), starts)
    mask = token_classes.CLASSES[name](texts, begins)
    return [text for text, here in zip(texts, mask, strict=True) if here]


def test_digits_are_tokens_of_digits_alone() -> None:
    assert classed("digits", ["12", " 7", "x1", "", " ", "3.", "½"]) == ["12", " 7"]


@pytest.mark.parametrize(
    ("texts", "starts", "wanted"),
    [
        (["if", " x", ":", "\n   ", " y"], (0,), ["\n   "]),
        (["if", " x", "):", "\n"], (0,), ["\n"]),
        (["a", "\n", ":", "b"], (0,), []),
        (["a", ":", "\n"], (0, 2), []),  # another document's colon
        (["\n", "a"], (0,), []),
    ],
)
def test_a_line_end_counts_after_a_colon_of_the_same_document(texts, starts, wanted) -> None:
    assert classed("line_end_after_colon", texts, starts) == wanted


@pytest.mark.parametrize(
    ("texts", "starts", "wanted"),
    [
        (['"', "Go", " on", ',"', " he", ' "', "no"], (0,), ["Go", " on", "no"]),
        (["“", "Go", "”", " he"], (0,), ["Go"]),
        (['"', "a", "\n\n", "b"], (0,), ["a"]),
        (['"', "a", "b"], (0, 2), ["a"]),
        (['""', "a"], (0,), []),
    ],
)
def test_quoted_is_between_marks_of_one_paragraph_and_document(texts, starts, wanted) -> None:
    assert classed("quoted", texts, starts) == wanted


def test_a_mask_has_the_shape_of_its_shard_and_sees_where_documents_begin() -> None:
    entries = {
        "a": 0,
        ":": 1,
        "Ċ": 2,
        "7": 3,
    }  # Ċ is how a byte-level vocabulary writes a line's end
    tokenizer = Tokenizer(models.WordLevel(entries, unk_token="a"))
    tokenizer.decoder = decoders.ByteLevel()
    texts = token_classes.token_texts(tokenizer, 4)
    assert texts.tolist() == ["a", ":", "\n", "7"]
    tokens = np.array([[0, 1, 2, 3], [1, 2, 1, 2]])
    document = np.array([[5, 5, 5, 5], [5, 5, 6, 7]])
    shard = SimpleNamespace(tokens=tokens, document=document)
    found = token_classes.class_mask("line_end_after_colon", shard, texts)
    assert found.tolist() == [[False, False, True, False], [False, True, False, False]]
    digits = token_classes.class_mask("digits", shard, texts)
    assert digits.tolist() == [[False, False, False, True], [False] * 4]
