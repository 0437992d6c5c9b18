"""Classes of tokens that can be told from the text alone: where a planted signal stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tokenizers import Tokenizer

from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard

_QUOTES = str.maketrans({"\u201c": '"', "\u201d": '"'})


def token_texts(tokenizer: Tokenizer, size: int) -> np.ndarray:
    """The text [size] of each token id by itself; empty for an id that has none."""
    return np.array(
        tokenizer.decode_batch([[i] for i in range(size)], skip_special_tokens=False), dtype=object
    )


def is_digits(texts: Sequence[str], starts: np.ndarray) -> np.ndarray:
    """Whether a token is a number or a part of one."""
    return np.array([text.strip().isdecimal() for text in texts])


def is_line_end_after_colon(texts: Sequence[str], starts: np.ndarray) -> np.ndarray:
    """Whether a token begins with the end of a line that a colon closes."""
    ends = np.array([text.rstrip(" ").endswith(":") for text in texts])
    begins = np.array([text.startswith("\n") for text in texts])
    begins[1:] &= ends[:-1]
    begins[0] = False
    return begins & ~starts


def is_quoted(texts: Sequence[str], starts: np.ndarray) -> np.ndarray:
    """Whether a token stands between double quotes, straight or curly, the marks themselves left out.

    A quotation ends with its paragraph, so that one mark too many does not turn the rest of a text over.
    """
    found = np.zeros(len(texts), bool)
    inside = False
    for place, (text, start) in enumerate(zip(texts, starts, strict=True)):
        inside &= not start and "\n\n" not in text
        marks = text.translate(_QUOTES).count('"')
        found[place] = inside and not marks
        inside ^= marks % 2 == 1
    return found


# Of the texts [token] of one sequence, and whether its attention begins at each: a mask [token].
CLASSES: dict[str, Callable[[Sequence[str], np.ndarray], np.ndarray]] = {
    "digits": is_digits,
    "line_end_after_colon": is_line_end_after_colon,
    "quoted": is_quoted,
}


def class_mask(name: str, shard: TokenShard, texts: np.ndarray) -> np.ndarray:
    """Which tokens of a shard are of a class of CLASSES: [sequence, position] of bool.

    `texts` are those of `token_texts`. What stands before a sequence, or before a document in it, is not
    seen.
    """
    starts = segment_starts(shard.document)
    rows = zip(shard.tokens, starts, strict=True)
    return np.stack([CLASSES[name](texts[tokens], begins) for tokens, begins in rows])
