"""Rows of models with different tokenizers: those that end at the same character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer

from moediff.core.errors import UserError
from moediff.corpus.alignment import PADDING, aligned, alignment_report, boundaries
from moediff.corpus.token_shards import TokenShard
from retokenised import (
    REAL,
    every_kind,
    letters,
    made_texts,
    packed,
    retokenised,
    stacked,
)


@pytest.fixture(scope="module")
def kinds() -> dict[str, Tokenizer]:
    return every_kind()


def plain_boundaries(shard: TokenShard) -> dict[tuple[int, int, int, int], int]:
    """Position of the row of every (sequence, document, domain, end) where all text is read."""
    rows = [
        (sequence, position, *(int(getattr(shard, n)[sequence, position]) for n in REAL[::2]))
        for sequence, position in np.ndindex(shard.tokens.shape)
    ]
    rows = [row for row in rows if row[2] != PADDING]
    found = {}
    for number, (sequence, position, document, domain) in enumerate(rows):
        start, end = (int(a[sequence, position]) for a in (shard.start, shard.end))
        later = [
            int(shard.start[s, p]) for s, p, other, _ in rows[number + 1 :] if other == document
        ]
        if start < end and all(place >= end for place in later):
            assert (sequence, document, domain, end) not in found
            found[sequence, document, domain, end] = position
    return found


def as_mask(shard: TokenShard, places: Sequence[tuple[int, int]]) -> np.ndarray:
    mask = np.zeros(shard.tokens.shape, bool)
    for place in places:
        mask[place] = True
    return mask


@pytest.mark.parametrize("others", [["merged"], ["unigram"], ["normalised"], ["merged", "unigram"],
                                    ["unigram", "normalised", "merged"]])  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_aligned_rows_are_those_of_a_plain_loop(kinds: dict, others: list[str], seed: int) -> None:
    shard, texts = packed(made_texts(12, seed, longest=20), kinds["bytes"], 39 + seed, first=7)
    shards = [shard, *(retokenised(shard, texts, kinds[name]) for name in others)]
    known = [plain_boundaries(one) for one in shards]
    chance = np.random.default_rng(seed)
    keep = [chance.random(one.tokens.shape) < 0.8 for one in shards]
    for allowed in (None, keep):
        usable = known
        if allowed is not None:
            usable = [
                {key: place for key, place in found.items() if mask[key[0], place]}
                for found, mask in zip(known, keep, strict=True)
            ]
        common = set.intersection(*map(set, usable))
        assert len(common) > 30
        masks = aligned(shards, allowed)
        for one, mask, found in zip(shards, masks, usable, strict=True):
            expected = as_mask(one, [(key[0], found[key]) for key in common])
            assert np.array_equal(mask, expected)
            assert not (mask & (one.document == PADDING)).any()
            assert not (mask & (one.start == one.end)).any()
        for name in ("document", "domain", "end"):
            first, *rest = (getattr(one, name)[m] for one, m in zip(shards, masks, strict=True))
            assert all(np.array_equal(first, other) for other in rest)
        first, *rest = (np.nonzero(mask)[0] for mask in masks)
        assert all(np.array_equal(first, other) for other in rest)


@pytest.mark.parametrize("kind", ["bytes", "merged", "normalised", "unigram"])
def test_boundaries_are_those_of_a_plain_loop(kinds: dict, kind: str) -> None:
    shard, _ = packed(made_texts(6, 4, longest=14), kinds[kind], 23)
    expected = as_mask(shard, [(key[0], p) for key, p in plain_boundaries(shard).items()])
    assert np.array_equal(boundaries(shard), expected)


def test_of_the_bytes_of_a_character_only_the_last_has_read_it(kinds: dict) -> None:
    shard, _ = packed(["a狐b"], kinds["bytes"], 3)  # a and two bytes; one byte, b and the end
    assert boundaries(shard).tolist() == [[True, False, False], [True, True, False]]


def test_padding_is_no_boundary_and_hides_none(kinds: dict) -> None:
    text = "a狐b"
    shard, _ = packed([text], kinds["bytes"], 3)
    wider = {
        name: np.pad(value, [(0, 0), (0, 1)], constant_values=3)
        for name, value in vars(shard).items()
        if isinstance(value, np.ndarray)
    }
    wider["document"][:, -1] = PADDING
    wider["start"][:, -1] = 0
    padded = replace(shard, **wider)
    assert boundaries(padded).tolist() == [[True, False, False, False], [True, True, False, False]]


def test_a_document_that_stands_twice_is_compared_where_it_stands(kinds: dict) -> None:
    shard, texts = packed(made_texts(3, 2), kinds["bytes"], None)
    pair = [stacked(one, one) for one in (shard, retokenised(shard, texts, kinds["merged"]))]
    every = aligned(pair)[0].sum()
    assert every > 20
    keep = [np.ones(one.tokens.shape, bool) for one in pair]
    keep[0][0], keep[1][1] = False, False
    assert not np.any(aligned(pair, keep)[0])
    keep[1][:] = True
    assert aligned(pair, keep)[0].sum() == every // 2


@pytest.mark.parametrize("kind", ["bytes", "merged", "normalised", "unigram"])
def test_the_same_tokenizer_twice_keeps_every_row_but_the_special(kinds: dict, kind: str) -> None:
    shard, texts = packed(made_texts(8, 2), kinds[kind], None)
    again = retokenised(shard, texts, kinds[kind])
    assert np.array_equal(again.tokens, shard.tokens)
    here, there = aligned([shard, again])
    assert np.array_equal(here, boundaries(shard))
    assert np.array_equal(here, there)
    assert here.sum() > 100


def test_a_tokenizer_of_whole_characters_loses_nothing_at_edges() -> None:
    texts = made_texts(8, 2)
    shard, known = packed(texts, letters("".join(texts)), 30)
    again = retokenised(shard, known, letters("".join(texts)))
    here, _ = aligned([shard, again])
    assert len(shard.tokens) > 10
    assert np.array_equal(here, shard.start < shard.end)


@pytest.mark.parametrize("case", ["first", "sequences", "domains", "order", "domain"])
def test_shards_of_other_sequences_are_refused(kinds: dict, case: str) -> None:
    texts = made_texts(6, 2)
    shard, known = packed(texts, kinds["bytes"], None)
    other = retokenised(shard, known, kinds["merged"])
    assert len(aligned([shard, other])) == 2
    if case == "first":
        other = replace(other, first=1)
    elif case == "sequences":
        other = stacked(other, replace(other, document=np.full_like(other.document, PADDING)))
    elif case == "domains":
        other = replace(other, domains=("one", "two"))
    elif case == "order":
        other, _ = packed(texts[::-1], kinds["merged"], None)
    else:
        other = replace(other, domain=1 - other.domain)
    with pytest.raises(UserError, match="do not hold the same text"):
        aligned([shard, other])


def test_the_report_counts_rows_and_word_ends() -> None:
    shard, _ = packed(["ab c"], letters("ab c"), 5)
    keep = np.array([[True, True, False, True, False]])
    mask = np.array([[False, True, False, True, False]])
    assert shard.word_end.tolist() == [[False, True, True, True, True]]
    report = alignment_report(shard, mask, keep)
    assert report == {"rows": 3, "kept": 2, "word_ends": 2, "word_ends_kept": 2}
    assert {type(value) for value in report.values()} == {int}
