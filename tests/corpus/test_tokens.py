"""Tokenizer, packing and shards: exact budgets, nothing lost, and damage that is noticed."""

import collections
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError
from moediff.corpus import encoding, packing
from moediff.corpus.sources import document_id, find_texts
from moediff.corpus.tokenizer import (
    END_OF_TEXT,
    open_tokenizer,
    read_vocabulary,
    train_tokenizer,
    write_tokenizer,
)

WORDS = ["the", "fox", "saw", "a", "red", "moon", "over", "quiet", "hills", "and", "ran", "home"]


def sentences(count: int, seed: int, longest: int = 30) -> list[str]:
    """Different texts of known words, each with its number."""
    chance = random.Random(seed)
    return [
        f"{seed}.{i} " + " ".join(chance.choices(WORDS, k=chance.randint(1, longest)))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(sentences(300, 0), 320)


# --- tokenizer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        "  two  spaces\n\n\ttab, line\r\nends\n",
        "naïve café — 狐は走った 🦊👩‍👩‍👧 \u202eright to left",
        "\x00\x01\x7f \ufeff \ufffd \U0010ffff",
        "e\u0301 is not \xe9",
        "",
    ],
)
def test_every_text_comes_back_as_it_was(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_random_text_comes_back_as_it_was(tokenizer: Tokenizer) -> None:
    chance = random.Random(0)
    for _ in range(200):
        points = [chance.randrange(0x110000) for _ in range(40)]
        text = "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_trained_tokenizer_has_the_size_asked_and_merges_what_is_frequent() -> None:
    learnt = train_tokenizer(["the fox and the hen and the dog"] * 20, 264)
    assert learnt.get_vocab_size() == 264
    assert learnt.token_to_id(END_OF_TEXT) == 0
    assert learnt.encode("the the").tokens == ["the", "Ġthe"]


def test_the_same_texts_give_the_same_bytes(tmp_path: Path) -> None:
    chance = random.Random(1)  # letters by chance: many pairs are equally frequent
    texts = ["".join(chance.choices("abcdefgh ", k=60)) for _ in range(300)]
    written = []
    for run in ("first", "second"):
        learnt = train_tokenizer(iter(texts), 500)
        paths = tmp_path / f"{run}.json", tmp_path / f"{run}-vocabulary.json"
        write_tokenizer(*paths, learnt, END_OF_TEXT, [END_OF_TEXT])
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]


def test_vocabulary_is_read_as_written(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path, facts = tmp_path / "tokenizer.json", tmp_path / "vocabulary.json"
    write_tokenizer(path, facts, tokenizer, END_OF_TEXT, [END_OF_TEXT])
    vocabulary = read_vocabulary(facts)
    assert (vocabulary.size, vocabulary.end_of_text, vocabulary.special) == (320, 0, (0,))
    assert vocabulary.digest == artifact.digest_files([path])
    again = Tokenizer.from_file(str(path))
    assert again.encode("the quiet moon").ids == tokenizer.encode("the quiet moon").ids


def test_a_damaged_tokenizer_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path, facts = tmp_path / "tokenizer.json", tmp_path / "vocabulary.json"
    write_tokenizer(path, facts, tokenizer, END_OF_TEXT, [END_OF_TEXT])
    digest, whole = read_vocabulary(facts).digest, path.read_bytes()
    assert open_tokenizer(path, digest).to_str() == tokenizer.to_str()
    special = whole.replace(b'"id": 0', b'"id": 1', 1)  # another id, and JSON all the same
    assert special != whole
    for data, said in (
        (whole[:-100], "not a whole tokenizer"),
        (whole.replace(b'"BPE"', b'"BPD"'), "not a whole tokenizer"),
        (b"", "not a whole tokenizer"),
        (special, "not "),
        (whole + b"\n", "not the tokenizer that vocabulary.json describes"),
    ):
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=rf"tokenizer\.json: {said}.*rm '.*tokenizer\.json'"):
            open_tokenizer(path, digest)


def test_a_flipped_bit_of_the_vocabulary_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path, facts = tmp_path / "tokenizer.json", tmp_path / "vocabulary.json"
    write_tokenizer(path, facts, tokenizer, END_OF_TEXT, [END_OF_TEXT])
    facts.write_bytes(facts.read_bytes().replace(b'"end_of_text": 0', b'"end_of_text": 1'))
    with pytest.raises(DamagedError, match=r"vocabulary\.json"):
        read_vocabulary(facts)


def test_too_little_text_for_the_vocabulary_asked() -> None:
    with pytest.raises(UserError, match=r"corpus\.tokenizer\.train: .* entries of 4096"):
        train_tokenizer(["the fox"], 4096)


# --- spans -----------------------------------------------------------------------------------

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


# --- budgets and packing ---------------------------------------------------------------------


def test_budgets_are_known() -> None:
    assert packing.domain_budgets(1000, {"a": 1, "b": 1}) == {"a": 500, "b": 500}
    assert packing.domain_budgets(1000, {"a": 3, "b": 1}) == {"a": 750, "b": 250}
    assert packing.domain_budgets(7, {"a": 1}) == {"a": 7}


def test_budgets_sum_exactly_and_follow_the_weights() -> None:
    chance = random.Random(0)
    for _ in range(300):
        weights = {str(i): chance.choice([1, 0.1, chance.random() + 0.01]) for i in range(7)}
        total = chance.randrange(1, 10**10)
        budgets = packing.domain_budgets(total, weights)
        assert list(budgets) == list(weights)
        assert sum(budgets.values()) == total
        for name, budget in budgets.items():
            assert abs(budget - total * weights[name] / sum(weights.values())) <= 1.01


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """Writes one file a domain, given as {split: texts}."""

    def write(**domains: dict[str, list[str]]) -> dict[str, Path]:
        paths = {}
        for name, splits in domains.items():
            rows = [
                {"text": text, "document": document_id(text), "split": split}
                for split, texts in splits.items()
                for text in texts
            ]
            paths[name] = tmp_path / f"{name}.parquet"
            artifact.write_parquet(paths[name], pl.DataFrame(rows), {})
        return paths

    return write


def runs(arrays: dict[str, np.ndarray]) -> list[tuple[int, int, list[int]]]:
    """The stretches of equal document of the whole split: (document, domain, tokens)."""
    document = arrays["document"].ravel()
    edges = np.flatnonzero(np.diff(document)) + 1
    flat = [np.split(arrays[key].ravel(), edges) for key in ("document", "domain", "tokens")]
    for _, domain, _ in zip(*flat, strict=True):
        assert len(set(domain.tolist())) == 1
    return [(int(d[0]), int(n[0]), t.tolist()) for d, n, t in zip(*flat, strict=True)]


def test_packing_gives_each_domain_its_budget_of_whole_documents(
    corpus: Callable, tokenizer: Tokenizer
) -> None:
    train = {"a": sentences(400, 1), "b": sentences(400, 2), "c": sentences(400, 3)}
    held = {"a": sentences(50, 4), "b": sentences(50, 5), "c": sentences(50, 6)}
    paths = corpus(**{name: {"train": train[name], "fit": held[name]} for name in train})
    weights = {"a": 2, "b": 1, "c": 1}
    arrays = packing.pack(paths, weights, tokenizer, 0, "train", 37, 64, 0)

    assert {key: array.shape for key, array in arrays.items()} == dict.fromkeys(arrays, (37, 64))
    types = {"tokens": "<u2", "start": "<u4", "end": "<u4", "word_end": "|b1"}
    types |= {"document": "<i8", "domain": "|u1"}
    assert {key: array.dtype.str for key, array in arrays.items()} == types
    assert np.bincount(arrays["domain"].ravel()).tolist() == [1184, 592, 592]

    texts = {int(document_id(text), 16): (name, text) for name in "abc" for text in train[name]}
    packed = runs(arrays)
    assert len({document for document, _, _ in packed}) == len(packed)  # each in one piece
    cut = collections.Counter()
    for document, domain, found in packed:
        name, text = texts[document]  # and so none of another split
        assert name == "abc"[domain]
        whole = [*tokenizer.encode(text).ids, 0]
        assert found == whole[: len(found)]
        cut[name] += len(found) < len(whole)
    assert max(cut.values()) <= 1  # the last of a domain
    domains = [domain for _, domain, _ in packed]
    assert int(np.count_nonzero(np.diff(domains))) > 50  # mixed, not one after another


def test_packed_tokens_have_the_spans_of_their_documents(
    corpus: Callable, tokenizer: Tokenizer
) -> None:
    texts = [f"{number} naïve 狐 🦊 {text}" for number, text in enumerate(sentences(60, 1))]
    arrays = packing.pack(corpus(a={"fit": texts}), {"a": 1}, tokenizer, 0, "fit", 20, 32, 0)
    documents = {int(document_id(text), 16): text for text in texts}
    flat = {key: array.ravel() for key, array in arrays.items()}
    for document in set(flat["document"].tolist()):
        here = flat["document"] == document
        (whole,) = encoding.encode(tokenizer, [documents[document]], 0)
        for key, array in whole.items():
            assert np.array_equal(flat[key][here], array[: here.sum()])


def test_packing_is_fixed_by_its_seed(corpus: Callable, tokenizer: Tokenizer) -> None:
    paths = corpus(a={"fit": sentences(200, 1)}, b={"fit": sentences(200, 2)})
    first, again, other = (
        packing.pack(paths, {"a": 1, "b": 1}, tokenizer, 0, "fit", 20, 32, seed)
        for seed in (3, 3, 4)
    )
    for key in first:
        assert first[key].tobytes() == again[key].tobytes()
        assert first[key].tobytes() != other[key].tobytes()


def test_packing_does_not_depend_on_the_order_of_the_rows(
    corpus: Callable, tokenizer: Tokenizer
) -> None:
    texts = sentences(100, 1)
    packed = [
        packing.pack(corpus(a={"fit": order}), {"a": 1}, tokenizer, 0, "fit", 10, 32, 0)
        for order in (texts, texts[::-1])
    ]
    assert packed[0]["tokens"].tobytes() == packed[1]["tokens"].tobytes()


def test_a_text_that_two_domains_hold_stays_with_the_first(
    corpus: Callable, tokenizer: Tokenizer
) -> None:
    shared, across = "held by both", "learnt from by one and held out by the other"
    train, held = sentences(6, 1), sentences(6, 2)
    paths = corpus(
        a={"train": [*train[:3], shared, across], "validation": held[:3]},
        b={"train": [*train[3:], shared], "validation": [*held[3:], across]},
    )

    def everything(split: str, expected: list[str]) -> dict[int, int]:
        """All of a split, packed: the domain of each document."""
        sizes = [sum(len(tokenizer.encode(text).ids) + 1 for text in texts) for texts in expected]
        weights = dict(zip("ab", sizes, strict=True))  # so that each gives all that it has
        arrays = packing.pack(paths, weights, tokenizer, 0, split, 1, sum(sizes), 0)
        return {document: domain for document, domain, _ in runs(arrays)}

    def ids(texts: list[str], domain: int) -> dict[int, int]:
        return {int(document_id(text), 16): domain for text in texts}

    first = [*train[:3], shared, across]
    assert everything("train", [first, train[3:]]) == ids(first, 0) | ids(train[3:], 1)
    found = everything("validation", [held[:3], held[3:]])
    assert found == ids(held[:3], 0) | ids(held[3:], 1)  # `across` is learnt from: not held out
    with pytest.raises(UserError, match="domain 'b': split 'validation'"):
        everything("validation", [held[:3], [*held[3:], across]])


def test_too_little_text_names_the_domain_and_the_split(
    corpus: Callable, tokenizer: Tokenizer
) -> None:
    texts = sentences(400, 1)
    paths = corpus(a={"fit": texts}, small={"train": texts[:50], "fit": ["moon", "moon moon"]})
    size = sum(len(tokenizer.encode(text).ids) + 1 for text in ("moon", "moon moon"))
    with pytest.raises(UserError) as caught:
        packing.pack(paths, {"a": 1, "small": 1}, tokenizer, 0, "fit", 10, 32, 0)
    message = str(caught.value)
    assert "\n" not in message
    assert f"domain 'small': split 'fit' holds {size} tokens in 2 documents, 160 are" in message
    assert "corpus.tokens.fit" in message


# --- texts of documents ----------------------------------------------------------------------


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


# --- known defects ---------------------------------------------------------------------------


def test_a_text_that_spells_out_the_end_of_text(tokenizer: Tokenizer) -> None:
    text = f"unk_token={END_OF_TEXT!r}"  # as docstrings of tokenizers have it
    (encoded,) = encoding.encode(tokenizer, [text], 0)
    *ids, end = encoded["tokens"].tolist()
    assert end == 0
    assert 0 not in ids
    assert tokenizer.decode(ids) == text


def test_a_vocabulary_with_gaps_is_as_large_as_its_largest_id(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 7, "end": 70_000}, unk_token="a"))
    write_tokenizer(
        tmp_path / "tokenizer.json", tmp_path / "vocabulary.json", tokenizer, "end", ["end"]
    )
    assert read_vocabulary(tmp_path / "vocabulary.json").size == 70_001
