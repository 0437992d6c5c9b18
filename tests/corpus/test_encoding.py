"""Texts as tokens and the characters that each token covers, by tokenizers of many kinds."""

import random

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from conftest import sentences
from moediff.corpus import encoding
from moediff.corpus.tokenizer import END_OF_TEXT

TEXTS = [
    "plain words, and_more 42",
    "  two  spaces\n\n\ttab \n",
    "naïve café — 狐は走った 🦊👩‍👩‍👧 x",
    "e\u0301a \xe9 \u0301x ﬁne Ⅷ ½ \uff21\uff22 İstanbul ß b\u0307\u0323 c",
    "한국어 \u1112\u1161\u11ab हिन्दी ไทย",
    "\x00\x01\x7f \ufeff \ufffd \U0010ffff",
    "",
]


def byte_level(
    normalizer: normalizers.Normalizer | None = None, prefix: bool = False, trim: bool = False
) -> Tokenizer:
    """A byte-level BPE whose merges do not know most characters of TEXTS."""
    made = Tokenizer(models.BPE())
    if normalizer is not None:
        made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.post_processor = processors.ByteLevel(trim_offsets=trim)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([*sentences(60, 0), "狐 🦊 é"] * 2, trainer)
    return made


def unigram() -> Tokenizer:
    """As SentencePiece makes them: a mark for a space, one before the text, whole characters."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
    )
    made.train_from_iterator([*sentences(60, 0), *TEXTS], trainer)
    return made


def spans(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """The span of every token but the end of text."""
    (found,) = encoding.encode(tokenizer, [text], 0)
    *pairs, last = zip(found["start"].tolist(), found["end"].tolist(), strict=True)
    assert last == (len(text), len(text))
    assert found["word_end"][-1]
    return pairs


KINDS = {
    "plain": byte_level(),
    "prefix": byte_level(prefix=True),
    "trimmed": byte_level(trim=True),
    "unigram": unigram(),
    "lowercase": byte_level(normalizers.Lowercase()),
    "nfc": byte_level(normalizers.NFC()),
    "nfkc": byte_level(normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
    "nfd": byte_level(normalizers.NFD()),
    "accents": byte_level(normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_spans_rebuild_the_text(kind: str, text: str) -> None:
    found, place = [], 0
    for start, end in spans(KINDS[kind], text):
        assert start < end
        if start >= place:  # the first of those of one character
            found.append(text[start:end])
        else:
            found.append(text[place:end])
        place = end
    assert "".join(found) == text


def test_random_text_has_spans_that_go_forward_and_leave_out_nothing() -> None:
    chance = random.Random(1)
    pool = [
        *map(chr, range(32, 600)),
        *map(chr, range(0x300, 0x330)),
        *"狐走は한🦊👩\u200d\u1161\u11ab",
    ]
    for _ in range(60):
        text = "a" + "".join(chance.choices(pool, k=60))
        for tokenizer in KINDS.values():
            found = np.array(spans(tokenizer, text))
            assert (np.diff(found, axis=0) >= 0).all()
            assert (found[1:, 0] <= found[:-1, 1]).all()
            assert (found[0, 0], found[-1, 1]) == (0, len(text))


def test_spans_are_of_characters_and_not_of_bytes() -> None:
    fox, space, sharp = (0, 1), (1, 2), (2, 3)
    assert spans(byte_level(), "走 ß") == [fox] * 3 + [space] + [sharp] * 2
    assert spans(byte_level(), "🦊") == [fox] * len(byte_level().encode("🦊").ids)


def test_spaces_belong_to_tokens_whatever_the_tokenizer_trims() -> None:
    trimmed, plain = KINDS["trimmed"], KINDS["plain"]
    text = "the fox  \n\n ran "
    assert (
        trimmed.encode(text).offsets != plain.encode(text).offsets
    )  # so there is something to undo
    assert spans(trimmed, text) == spans(plain, text)


def test_a_space_put_before_the_text_covers_the_first_character() -> None:
    made = Tokenizer(models.Unigram([("<unk>", 0), ("▁", -1), ("Z", -1), ("o", -1)], 0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    assert made.encode("Zo o").tokens == ["▁", "Z", "o", "▁", "o"]
    assert spans(made, "Zo o") == [(0, 1), (0, 1), (1, 2), (2, 3), (3, 4)]


def test_spans_are_of_the_text_before_it_is_normalised() -> None:
    made = KINDS["nfkc"]
    assert made.encode("ﬁ\uff38").tokens == ["f", "i", "x"]
    assert spans(made, "ﬁ\uff38") == [(0, 1), (0, 1), (1, 2)]
    # A letter and its accent become one character, here of two tokens; the last has read both.
    assert spans(made, "e\u0301x") == [(0, 1), (0, 2), (2, 3)]


def test_white_space_that_is_dropped_belongs_to_no_token() -> None:
    made = Tokenizer(models.WordLevel({"a": 0, "b": 1, "end": 2}, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.normalizer = normalizers.Replace("\u200b", "")
    assert spans(made, " a\u200b  b") == [(1, 3), (5, 6)]


def test_a_tokenizer_set_to_cut_and_fill_gives_the_whole_text() -> None:
    made = byte_level()
    made.enable_truncation(4)
    made.enable_padding(length=50)
    text = "the fox saw a red moon"
    (found,) = encoding.encode(made, [text], 0)
    assert found["tokens"].tolist() == [*byte_level().encode(text).ids, 0]
    assert len(made.encode("a").ids) == 50  # and is left as it was


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("a bc", {0, 1, 2, 4}),
        ("ab", {0, 2}),
        ("a_1b", {0, 4}),
        ("it's", {0, 2, 3, 4}),
        ("f(x)", {0, 1, 2, 3, 4}),
        ("née—so", {0, 3, 4, 6}),
        ("狐走 ß1", {0, 2, 3, 5}),
        ("e\u0301a", {0, 1, 2, 3}),
        ("🦊a", {0, 1, 2}),
        ("", {0}),
    ],
)
def test_words_end_where_letters_digits_and_underscores_do(text: str, ends: set[int]) -> None:
    made = Tokenizer(models.Unigram([("<unk>", 0), *((letter, -1) for letter in set(text))], 0))
    (found,) = encoding.encode(made, [text], 0)
    assert found["end"].tolist() == [*range(1, len(text) + 1), len(text)]
    assert found["word_end"].tolist() == [place in ends for place in found["end"].tolist()]


def test_a_text_that_spells_out_the_end_of_text(tokenizer: Tokenizer) -> None:
    text = f"unk_token={END_OF_TEXT!r}"  # as docstrings of tokenizers have it
    (encoded,) = encoding.encode(tokenizer, [text], 0)
    *ids, end = encoded["tokens"].tolist()
    assert end == 0
    assert 0 not in ids
    assert tokenizer.decode(ids) == text
