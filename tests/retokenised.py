"""Texts of every kind, tokenizers that cut them in every way, and packed shards of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from moediff.corpus import encoding
from moediff.corpus.alignment import retokenise
from moediff.corpus.sources import document_id
from moediff.corpus.token_shards import TokenShard

WORDS = ["the", "fox", "saw", "quiet", "hills", "over_there", "naïve", "狐は走った", "🦊👩\u200d👧",
         "e\u0301te\u0301", "ﬁne", "x1", "(so)", "\n\n", " ", "İ"]  # fmt: skip
END = 0
REAL = ("document", "sequence", "domain", "end")


def made_texts(count: int, seed: int, longest: int = 40) -> list[str]:
    """Texts of words that a tokenizer may know and, half of them, of words that none does."""
    chance = random.Random(seed)

    def word() -> str:
        unknown = "".join(chance.choices("abcdeé狐_ﬁ", k=chance.randint(1, 6)))
        return chance.choice([chance.choice(WORDS), unknown])

    return [
        f"{seed}.{i} " + " ".join(word() for _ in range(chance.randint(1, longest)))
        for i in range(count)
    ]


def byte_level(size: int, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    if normalizer:
        made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<end>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(made_texts(40, size), trainer)
    return made


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=["<end>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(made_texts(40, 1), trainer)
    return made


def letters(text: str) -> Tokenizer:
    """A tokenizer of single characters."""
    pieces = [("<end>", 0), *((letter, -1) for letter in sorted(set(text)))]
    return Tokenizer(models.Unigram(pieces, 0))


def every_kind() -> dict[str, Tokenizer]:
    """A tokenizer of each kind, by name."""
    return {
        "bytes": byte_level(257),
        "merged": byte_level(330),
        "normalised": byte_level(300, normalizers.NFKC()),
        "unigram": unigram(),
    }


def packed(
    texts: Sequence[str], tokenizer: Tokenizer, length: int | None, first: int = 0
) -> tuple[TokenShard, dict[int, str]]:
    """Texts in sequences of `length` (None: all in one), the last one cut, and texts by document."""
    documents = {int(document_id(text), 16): text for text in texts}
    columns: dict[str, list] = {}
    for number, (encoded, document) in enumerate(
        zip(encoding.encode(tokenizer, texts, END), documents, strict=True)
    ):
        size = len(encoded["tokens"])
        more = {
            "document": np.full(size, document),
            "group": np.full(size, number // 3),
            "domain": np.full(size, number % 2, np.uint8),
        }
        for name, array in (encoded | more).items():
            columns.setdefault(name, []).append(array)
    flat = {name: np.concatenate(parts) for name, parts in columns.items()}
    length = length or len(flat["tokens"])
    count = len(flat["tokens"]) // length
    arrays = {name: array[: count * length].reshape(count, length) for name, array in flat.items()}
    return shard_of(arrays, first), documents


def shard_of(arrays: dict[str, np.ndarray], first: int = 0) -> TokenShard:
    return TokenShard(
        **arrays, domains=("even", "odd"), tokenizer="t", special=(END,), first=first, digest="d"
    )


def stacked(*shards: TokenShard) -> TokenShard:
    """The sequences of shards after each other."""
    names = [name for name, value in vars(shards[0]).items() if isinstance(value, np.ndarray)]
    arrays = {name: np.concatenate([getattr(one, name) for one in shards]) for name in names}
    return replace(shards[0], **arrays)


def retokenised(shard: TokenShard, texts: dict[int, str], tokenizer: Tokenizer) -> TokenShard:
    return shard_of(retokenise(shard, texts, tokenizer, END), shard.first)
