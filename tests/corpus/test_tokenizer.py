"""The corpus's own tokenizer: no text is lost, the same texts give the same bytes."""

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen3Config

from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.corpus.tokenizer import (
    END_OF_TEXT,
    load_tokenizer,
    read_vocabulary,
    train_tokenizer,
    write_tokenizer,
)


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


def test_too_little_text_for_the_vocabulary_asked() -> None:
    with pytest.raises(UserError, match=r"corpus\.tokenizer\.train: .* entries of 4096"):
        train_tokenizer(["the fox"], 4096)


def test_a_vocabulary_with_gaps_is_as_large_as_its_largest_id(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 7, "end": 70_000}, unk_token="a"))
    write_tokenizer(
        tmp_path / "tokenizer.json", tmp_path / "vocabulary.json", tokenizer, "end", ["end"]
    )
    assert read_vocabulary(tmp_path / "vocabulary.json").size == 70_001


def test_a_checkpoint_without_a_tokenizer_is_refused_and_with_one_it_is_read(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Of a folder with config.json alone transformers makes a tokenizer of special tokens."""
    Qwen3Config().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no tokenizer of its own"):
        load_tokenizer(str(tmp_path), None)
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)
    whole.save_pretrained(tmp_path)
    loaded, end, special = load_tokenizer(str(tmp_path), None)
    assert (end, special) == (END_OF_TEXT, [END_OF_TEXT])
    assert loaded.encode("the quiet moon").ids == tokenizer.encode("the quiet moon").ids


def test_a_tokenizer_without_an_end_of_text_is_refused(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no end-of-text token; set eos_token"):
        load_tokenizer(str(tmp_path), None)
