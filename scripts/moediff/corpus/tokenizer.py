"""Tokenizers: trained here or loaded, stored, read; what their vocabulary is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from moediff.config.checkpoints import base_of, is_adapter, is_gguf, parts_of_gguf
from moediff.config.corpus import tokenizer_files
from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError, first_line, refusal

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_BYTES = 8_000_000  # text of a domain at most from which a tokenizer is trained


@dataclass(frozen=True)
class Vocabulary:
    """What later stages need of a tokenizer."""

    size: int
    end_of_text: int
    special: tuple[int, ...]
    digest: str  # of tokenizer.json
    entries: str  # `entries_digest`


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE of `size` entries; every text can be encoded, none is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < size:
        raise UserError(
            f"corpus.tokenizer.train: the train split yields only {tokenizer.get_vocab_size()} "
            f"entries of {size}; add text or lower it"
        )
    return tokenizer


def training_texts(corpus: Sequence[Path | str]) -> Iterator[str]:
    """Texts of the train split, at most TOKENIZER_BYTES a domain, in order of their ids.

    Of what has been read only the texts of the least ids are held, as many as are given.
    """
    for path in corpus:
        # Python's own texts: a frame that is cut from others keeps the text of all of them.
        least: list[tuple[str, str]] = []
        for frame in artifact.parquet_parts(path, ["text", "document", "split"]):
            rows = frame.filter(pl.col("split") == "train").select("document", "text").iter_rows()
            least = list(_as_long_as(sorted([*least, *rows])))
        yield from (text for _, text in least)


def _as_long_as(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Ids and texts until the texts have TOKENIZER_BYTES, the last one whole."""
    size = 0
    for row in rows:
        yield row
        size += len(row[1].encode())
        if size >= TOKENIZER_BYTES:
            return


def load_tokenizer(
    name: str, revision: str | None, where: str = "corpus.tokenizer.load"
) -> tuple[Tokenizer, str, list[str]]:
    """A pretrained tokenizer by Hub id or folder, its end-of-text token and its special tokens.

    Raises UserError, which starts with `where`, when it cannot be loaded or has no end of text.
    """
    loaded = _pretrained(name, revision, where)
    if loaded.eos_token is None:
        raise UserError(
            f"{where}: the tokenizer of '{name}' has no end-of-text token; set eos_token and save it again"
        )
    backend = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    return backend, loaded.eos_token, list(loaded.all_special_tokens)


def load_begin_of_text(name: str, where: str) -> str:
    """The beginning-of-text token of a pretrained tokenizer. Raises UserError where it has none."""
    loaded = _pretrained(name, None, where)
    if loaded.bos_token is None:
        raise UserError(
            f"{where}: the tokenizer of '{name}' has no beginning-of-text token; leave begin_of_text out, or "
            "set bos_token and save it again"
        )
    return loaded.bos_token


def _pretrained(name: str, revision: str | None, where: str) -> Any:
    """A tokenizer of transformers, by Hub id, folder or file. Raises UserError when it cannot be loaded."""
    from transformers import AutoTokenizer

    named = {}
    if is_gguf(name):
        name, named["gguf_file"] = parts_of_gguf(name)
    elif is_adapter(name) and not tokenizer_files(name):
        name, revision = base_of(name)
    try:
        loaded = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=False, **named
        )
    except Exception as error:  # the Hub's client raises a dozen unrelated classes
        raise UserError(
            f"{where}: the tokenizer of '{name}' cannot be loaded "
            f"({first_line(error)}); check the id, the folder and the network"
        ) from error
    # Of a folder without tokenizer files transformers makes one of special tokens alone.
    if set(loaded.get_vocab()) <= set(loaded.all_special_tokens):
        raise UserError(
            f"{where}: '{name}' has no tokenizer of its own; put one into that folder by its "
            "save_pretrained, or name another folder or Hub id"
        )
    return loaded


def write_tokenizer(
    path: Path | str, vocabulary: Path | str, tokenizer: Tokenizer, end: str, special: list[str]
) -> None:
    """Write tokenizer.json and, beside it, what later stages need of it."""
    artifact.write_text(path, tokenizer.to_str(pretty=True))
    facts = {
        "size": vocabulary_size(tokenizer),
        "end_of_text": tokenizer.token_to_id(end),
        "special": special_ids(tokenizer, special),
        "digest": artifact.digest_files([path]),
        "entries": entries_digest(tokenizer),
    }
    artifact.write_json(vocabulary, artifact.made_by("tokenizer") | facts)


def open_tokenizer(path: Path | str, digest: str | None = None) -> Tokenizer:
    """Read a tokenizer.json of ours. Raises DamagedError when it is not whole, or not that of `digest`."""
    tokenizer = parsed(path)
    if tokenizer is None:
        raise DamagedError(path, "not a whole tokenizer")
    if digest not in (None, artifact.digest_files([path])):
        raise DamagedError(path, "not the tokenizer that vocabulary.json describes")
    return tokenizer


def parsed(path: Path | str) -> Tokenizer | None:
    """The tokenizer in any tokenizer.json; None where there is none in it."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # plain ones, of a library in Rust
        refused = refusal(path, error)
        if refused:
            raise refused from error
        return None


def read_vocabulary(path: Path | str) -> Vocabulary:
    """Read what `write_tokenizer` wrote beside tokenizer.json."""
    facts = artifact.read_json(path)
    return Vocabulary(
        facts["size"], facts["end_of_text"], tuple(facts["special"]), facts["digest"],
        facts["entries"],
    )  # fmt: skip


def special_ids(tokenizer: Tokenizer, special: Iterable[str]) -> list[int]:
    """Ids of special tokens, in order. Raises UserError for one that the tokenizer does not have."""
    ids = []
    for token in special:
        number = tokenizer.token_to_id(token)
        if number is None:
            raise UserError(f"the tokenizer has no entry for its special token '{token}'")
        ids.append(number)
    return sorted(ids)


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Rows that an embedding needs: the largest token id and one. Ids of some tokenizers have gaps."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def text_size(tokenizer: Tokenizer, end_of_text: int) -> int:
    """Rows that an embedding needs for text: the largest id that can occur in it, and one.

    A special token is never made of text (`encoding.encode`), so an added one that is special only
    counts where it is the end of text.
    """
    added = tokenizer.get_added_tokens_decoder()
    occurring = [number for number, token in added.items() if not token.special]
    base = tokenizer.get_vocab(with_added_tokens=False).values()
    return 1 + max([end_of_text, *occurring, *base])


def entries_digest(tokenizer: Tokenizer) -> str:
    """Digest of the entries and their ids, those added to the model of the tokenizer left out.

    Loaders differ in which tokens they add; the entries beneath are the same for the same tokens.
    """
    return artifact.digest(sorted(tokenizer.get_vocab(with_added_tokens=False).items()))
