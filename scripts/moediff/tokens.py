"""Tokenizer, packing and token shards.

Documents of a split are shuffled, joined with an end-of-text token after each, and cut into
sequences of one length. A *segment* is a stretch of one document inside one sequence: what
attention sees when it does not cross documents.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path

import h5py
import numpy as np
import polars as pl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from moediff import artifact
from moediff.errors import DamagedError, UserError, first_line, unreadable

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_BYTES = 8_000_000  # text of a domain at most from which a tokenizer is trained
_ARRAYS = ("tokens", "start", "end", "word_end", "document", "domain")
_WORD, _SPACE = 1, 2  # kinds of characters


# --- tokenizer -------------------------------------------------------------------------------


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
    """Texts of the train split, at most TOKENIZER_BYTES a domain, in order of their ids."""
    for path in corpus:
        frame = artifact.read_parquet(path, ["text", "document", "split"])
        size = 0
        for text in frame.filter(pl.col("split") == "train").sort("document")["text"]:
            yield text
            size += len(text.encode())
            if size >= TOKENIZER_BYTES:
                break


def load_tokenizer(
    name: str, revision: str | None, where: str = "corpus.tokenizer.load"
) -> tuple[Tokenizer, str, list[str]]:
    """A pretrained tokenizer by Hub id or folder, its end-of-text token and its special tokens.

    Raises UserError, which starts with `where`, when it cannot be loaded or has no end of text.
    """
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:  # the Hub's client raises a dozen unrelated classes
        raise UserError(
            f"{where}: the tokenizer of '{name}' cannot be loaded "
            f"({first_line(error)}); check the id, the folder and the network"
        ) from error
    if loaded.eos_token is None:
        raise UserError(f"{where}: the tokenizer of '{name}' has no end-of-text token")
    backend = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    return backend, loaded.eos_token, list(loaded.all_special_tokens)


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


def read_vocabulary(path: Path | str) -> Vocabulary:
    """Read what `write_tokenizer` wrote beside tokenizer.json."""
    facts = artifact.read_json(path)
    artifact.check_format(path, facts)
    return Vocabulary(
        facts["size"], facts["end_of_text"], tuple(facts["special"]), facts["digest"],
        facts["entries"],
    )  # fmt: skip


def special_ids(tokenizer: Tokenizer, special: Iterable[str]) -> list[int]:
    """Ids of special tokens, in order."""
    return sorted(tokenizer.token_to_id(token) for token in special)


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Rows that an embedding needs: the largest token id and one. Ids of some tokenizers have gaps."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def entries_digest(tokenizer: Tokenizer) -> str:
    """Digest of the entries and their ids, those added to the model of the tokenizer left out.

    Loaders differ in which tokens they add; the entries beneath are the same for the same tokens.
    """
    return artifact.digest(sorted(tokenizer.get_vocab(with_added_tokens=False).items()))


# --- encoding --------------------------------------------------------------------------------


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
    types = _types(tokenizer)
    texts = iter(texts)
    while batch := list(islice(texts, 64)):
        found = plain.encode_batch(batch, add_special_tokens=False)
        for text, encoding in zip(batch, found, strict=True):
            kinds = _kinds(text)
            last = (len(text), len(text))
            size = len(encoding) + 1
            spans = np.fromiter(
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


def _types(tokenizer: Tokenizer) -> dict[str, type]:
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


# --- packing ---------------------------------------------------------------------------------


def domain_budgets(tokens: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Tokens of each domain, in proportion to the weights, summing to `tokens` exactly."""
    shares = np.cumsum(list(weights.values())) / sum(weights.values())
    edges = [0, *(round(float(share) * tokens) for share in shares)]
    return {name: edges[i + 1] - edges[i] for i, name in enumerate(weights)}


def pack(
    corpus: Mapping[str, Path | str],
    weights: Mapping[str, float],
    tokenizer: Tokenizer,
    end_of_text: int,
    split: str,
    sequences: int,
    length: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Arrays `tokens`, `start`, `end`, `word_end`, `document`, `domain` [sequence, position] of one split.

    Each domain gives exactly its budget of tokens: documents in an order fixed by `seed`, the last
    one cut. A text that two domains hold stays with the first. Raises UserError when a domain has
    too little text.
    """
    # Filled in place and then mixed one array after another: there are never two copies of all.
    flat = {name: np.empty(sequences * length, kind) for name, kind in _types(tokenizer).items()}
    documents: list[int] = []
    domains: list[int] = []
    lengths: list[int] = []
    taken: set[str] = set()
    for index, (name, budget) in enumerate(domain_budgets(sequences * length, weights).items()):
        frame = artifact.read_parquet(corpus[name], ["text", "document", "split"])
        frame = frame.filter(~pl.col("document").is_in(list(taken)))
        taken.update(frame["document"])
        frame = frame.filter(pl.col("split") == split).sort("document")
        frame = frame[np.random.default_rng([seed, index]).permutation(len(frame))]
        part = slice(sum(lengths), sum(lengths) + budget)
        found = _fill(flat, part, frame["text"], tokenizer, end_of_text)
        if sum(found) < budget:
            raise UserError(
                f"domain '{name}': split '{split}' holds {sum(found)} tokens in {len(frame)} "
                f"documents, {budget} are asked for; add text, lower corpus.tokens.{split} or give "
                "the domain less weight"
            )
        lengths += found
        documents += [int(document, 16) for document in frame["document"][: len(found)]]
        domains += [index] * len(found)
    mixed = np.random.default_rng([seed, len(weights)]).permutation(len(lengths))
    edges = np.cumsum([0, *lengths])
    for name, array in flat.items():
        flat[name] = np.concatenate([array[edges[i] : edges[i + 1]] for i in mixed])
    sizes = np.array(lengths)[mixed]
    flat["document"] = np.repeat(np.array(documents, "<i8")[mixed], sizes)
    flat["domain"] = np.repeat(np.array(domains, np.uint8)[mixed], sizes)
    return {key: array.reshape(sequences, length) for key, array in flat.items()}


def _fill(
    arrays: Mapping[str, np.ndarray],
    part: slice,
    texts: pl.Series,
    tokenizer: Tokenizer,
    end_of_text: int,
) -> list[int]:
    """Write encoded texts into a part of arrays [token] until it is full; the tokens of each taken."""
    lengths: list[int] = []
    place = part.start
    if place == part.stop:
        return lengths
    for encoded in encode(tokenizer, texts, end_of_text):
        stop = min(place + len(encoded["tokens"]), part.stop)
        for name, array in encoded.items():
            arrays[name][place:stop] = array[: stop - place]
        lengths.append(stop - place)
        place = stop
        if place == part.stop:
            break
    return lengths


def segment_starts(document: np.ndarray, attend_across_documents: bool = False) -> np.ndarray:
    """Whether a position is the first that attention sees: [sequence, position] of bool."""
    starts = np.zeros(document.shape, bool)
    starts[:, 0] = True
    if not attend_across_documents:
        starts[:, 1:] = document[:, 1:] != document[:, :-1]
    return starts


def segment_positions(starts: np.ndarray) -> np.ndarray:
    """Position inside its segment of every token: [sequence, position] of int64."""
    columns = np.arange(starts.shape[1])
    return columns - np.maximum.accumulate(np.where(starts, columns, 0), axis=1)


# --- token shards ----------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenShard:
    """A stretch of packed sequences; arrays are [sequence, position]."""

    tokens: np.ndarray
    document: np.ndarray
    domain: np.ndarray
    start: np.ndarray  # characters start..end of the document are the token's
    end: np.ndarray
    word_end: np.ndarray  # whether a word of the document ends at `end`
    domains: tuple[str, ...]
    tokenizer: str  # digest
    special: tuple[int, ...]  # ids of the tokenizer's special tokens
    first: int  # index in the split of the shard's first sequence
    digest: str


def write_token_shard(
    path: Path | str,
    arrays: Mapping[str, np.ndarray],
    domains: Sequence[str],
    tokenizer: str,
    first: int,
    provenance: Mapping,
    special: Sequence[int],
) -> None:
    """Write one HDF5 shard; each chunk has a checksum, and the whole content a digest."""
    with artifact.whole(path) as partial, h5py.File(partial, "w") as file:
        for name in _ARRAYS:
            file.create_dataset(
                name, data=arrays[name], compression="gzip", compression_opts=1, shuffle=True,
                fletcher32=True,
            )  # fmt: skip
        file.attrs["domains"] = json.dumps(list(domains))
        file.attrs["tokenizer"] = tokenizer
        file.attrs["special"] = json.dumps(list(special))
        file.attrs["first"] = first
        file.attrs["digest"] = _shard_digest(arrays, domains, tokenizer, special, first)
        file.attrs["made_by"] = artifact.canonical(provenance)


def _shard_digest(
    arrays: Mapping[str, np.ndarray],
    domains: Sequence[str],
    tokenizer: str,
    special: Sequence[int],
    first: int,
) -> str:
    facts = [list(domains), tokenizer, list(special), first]
    return artifact.digest(*(arrays[name] for name in _ARRAYS), facts)


def read_token_shard(path: Path | str) -> TokenShard:
    """Read and verify one shard. Raises DamagedError when it is cut or altered."""
    try:
        with h5py.File(path, "r") as file:
            artifact.check_format(path, json.loads(file.attrs["made_by"]))
            arrays = {name: file[name][:] for name in _ARRAYS}
            shard = TokenShard(
                **arrays,
                domains=tuple(json.loads(file.attrs["domains"])),
                tokenizer=file.attrs["tokenizer"],
                special=tuple(json.loads(file.attrs["special"])),
                first=int(file.attrs["first"]),
                digest=file.attrs["digest"],
            )
    except FileNotFoundError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise unreadable(path, "not a whole token shard", error) from error
    facts = (shard.domains, shard.tokenizer, shard.special, shard.first)
    if _shard_digest(arrays, *facts) != shard.digest:
        raise DamagedError(path, "its tokens do not match their digest")
    return shard


class TokenSplit:
    """All sequences of a split in memory: 4 bytes a token, twice that while it is read.

    `digest` tells splits apart by their tokens, by what attention sees, and by the part taken.
    """

    def __init__(self, paths: Sequence[Path | str], attend_across_documents: bool = False) -> None:
        tokens, domain, starts, digests, count = [], [], [], [], 0
        for path in paths:  # one shard's document ids and spans, which are wide, at a time
            shard = read_token_shard(path)
            if not count:
                self.domains, tokenizer = shard.domains, shard.tokenizer
            if (shard.domains, shard.tokenizer) != (self.domains, tokenizer):
                raise UserError(
                    f"{path} and its fellows were made by different tokenizers or domains; "
                    "remove the folder and run again"
                )
            if shard.first != count:
                raise UserError(f"{path} and its fellows do not follow on; remove the folder")
            tokens.append(shard.tokens)
            domain.append(shard.domain)
            starts.append(segment_starts(shard.document, attend_across_documents))
            digests.append(shard.digest)
            count += len(shard.tokens)
        self.digest = artifact.digest(digests, attend_across_documents)
        self.tokens = np.concatenate(tokens)  # [sequence, position]
        self.domain = np.concatenate(domain)  # [sequence, position]
        self.starts = np.concatenate(starts)  # [sequence, position]
        # Positions 1.. that can be predicted from what is before them: [sequence, position - 1].
        self.is_target = ~self.starts[:, 1:]

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, rows: slice) -> TokenSplit:
        """A stretch of the sequences."""
        found = copy.copy(self)
        found.digest = artifact.digest(self.digest, rows.start, rows.stop)
        found.tokens, found.domain = self.tokens[rows], self.domain[rows]
        found.starts, found.is_target = self.starts[rows], self.is_target[rows]
        return found

    def only(self, domains: Sequence[str]) -> TokenSplit:
        """The same sequences, in which tokens of other domains are no targets."""
        found = copy.copy(self)
        found.digest = artifact.digest(self.digest, list(domains))
        wanted = [self.domains.index(name) for name in domains]
        found.is_target = self.is_target & np.isin(self.domain[:, 1:], wanted)
        return found
