"""Text to tokens, with the characters that each token stands for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain, islice

import numpy as np
from tokenizers import Tokenizer

from moediff.corpus.tokenizer import vocabulary_size

_WORD, _SPACE = 1, 2  # kinds of characters


def encode(
    tokenizer: Tokenizer, texts: Iterable[str], end_of_text: int
) -> Iterator[dict[str, np.ndarray]]:
    """Arrays `tokens`, `start`, `end`, `word_end` [token] of each text, an end of text after it.

    A token covers the characters start..end of the text as it was given, whatever a normalizer
    made of it; starts and ends never go back. Several tokens of one character (its bytes, the
    letters of a ligature) each cover all of it. A space that a tokenizer puts before a text covers
    the first character too. Characters that it drops belong to the token before them, up to the
    first white space: so does the accent of a letter that it makes one with its accent. The end of
    text covers nothing, after the last character.
    """
    plain = _plain(tokenizer)
    types = token_types(tokenizer)
    texts = iter(texts)
    while batch := list(islice(texts, 64)):
        found = plain.encode_batch(batch, add_special_tokens=False)
        for text, encoding in zip(batch, found, strict=True):
            kinds = _kinds(text)
            last = (len(text), len(text))
            size = len(encoding) + 1
            spans: np.ndarray = np.fromiter(
                chain(chain.from_iterable(encoding.offsets), last), types["start"], 2 * size
            )
            start, end = spans.reshape(size, 2).T
            _cover_dropped(kinds, start, end)
            yield {
                "tokens": np.array([*encoding.ids, end_of_text], types["tokens"]),
                "start": start,
                "end": end,
                "word_end": _word_ends(kinds, end),
            }


def token_types(tokenizer: Tokenizer) -> dict[str, type]:
    """Types of the arrays that `encode` gives."""
    width = np.uint16 if vocabulary_size(tokenizer) <= 2**16 else np.uint32
    return {"tokens": width, "start": np.uint32, "end": np.uint32, "word_end": np.bool_}


def _plain(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that gives the whole text, its true spans, and no special token."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True  # a text that spells out an end of text does not end
    plain.post_processor = None  # some cut the white space off spans; no id depends on it here
    plain.no_truncation()
    plain.no_padding()
    return plain


@cache
def _kind_of_character() -> np.ndarray:
    """_WORD (letters, digits, underscore), _SPACE or 0 by code point: [code point] of uint8."""
    kinds = np.zeros(sys.maxunicode + 1, np.uint8)
    for point in range(len(kinds)):
        character = chr(point)
        if character.isalnum() or character == "_":
            kinds[point] = _WORD
        elif character.isspace():
            kinds[point] = _SPACE
    return kinds


def _kinds(text: str) -> np.ndarray:
    """The kind of every character of a text: [character]."""
    return _kind_of_character()[np.frombuffer(text.encode("utf-32-le"), "<u4")]


def _word_ends(kinds: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Whether a word of the text ends at `end` [token]: it is not between two characters of words.

    Marks that combine are of no word here, so that a word ends before and after each.
    """
    inside = np.zeros(len(kinds) + 1, bool)
    inside[1:-1] = (kinds[1:] == _WORD) & (kinds[:-1] == _WORD)
    return ~inside[end]


def _cover_dropped(kinds: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """Move each `end` over characters that no token covers, up to the first white space."""
    (gaps,) = np.nonzero(end[:-1] < start[1:])
    if len(gaps):
        spaces = np.append(np.flatnonzero(kinds == _SPACE), len(kinds))
        first = spaces[np.searchsorted(spaces, end[gaps])]
        end[gaps] = np.minimum(first, start[gaps + 1])
