"""Tokenizer, packing and token shards.

Documents of a split are shuffled, joined with an end-of-text token after each, and cut into
sequences of one length. A *segment* is a stretch of one document inside one sequence: what
attention sees when it does not cross documents.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import polars as pl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from moediff import artifact
from moediff.errors import DamagedError, UserError, first_line, unreadable

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_BYTES = 8_000_000  # text of a domain at most from which a tokenizer is trained
_ARRAYS = ("tokens", "document", "domain")


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


def load_tokenizer(name: str, revision: str | None) -> tuple[Tokenizer, str, list[str]]:
    """A pretrained tokenizer by Hub id or folder, its end-of-text token and its special tokens."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:  # the Hub's client raises a dozen unrelated classes
        raise UserError(
            f"corpus.tokenizer.load: '{name}' cannot be loaded "
            f"({first_line(error)}); check the id, the folder and the network"
        ) from error
    if loaded.eos_token is None:
        raise UserError(f"corpus.tokenizer.load: '{name}' has no end-of-text token")
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
        "special": sorted(tokenizer.token_to_id(token) for token in special),
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


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Rows that an embedding needs: the largest token id and one. Ids of some tokenizers have gaps."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())


def entries_digest(tokenizer: Tokenizer) -> str:
    """Digest of the entries and their ids, those added to the model of the tokenizer left out.

    Loaders differ in which tokens they add; the entries beneath are the same for the same tokens.
    """
    return artifact.digest(sorted(tokenizer.get_vocab(with_added_tokens=False).items()))


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
    """Arrays `tokens`, `document`, `domain` [sequence, position] of one split.

    Each domain gives exactly its budget of tokens: documents in an order fixed by `seed`, the last
    one cut. A text that two domains hold stays with the first. Raises UserError when a domain has
    too little text.
    """
    tokenizer.encode_special_tokens = True  # a text that spells out an end of text does not end
    pieces: list[tuple[np.ndarray, int, int]] = []
    taken: set[str] = set()
    for index, (name, budget) in enumerate(domain_budgets(sequences * length, weights).items()):
        frame = artifact.read_parquet(corpus[name], ["text", "document", "split"])
        frame = frame.filter(~pl.col("document").is_in(list(taken)))
        taken.update(frame["document"])
        frame = frame.filter(pl.col("split") == split).sort("document")
        order = np.random.default_rng([seed, index]).permutation(len(frame))
        pieces += _take(frame[order], tokenizer, end_of_text, budget, index, f"'{name}'", split)
    mixed = np.random.default_rng([seed, len(weights)]).permutation(len(pieces))
    chosen = [pieces[i] for i in mixed]
    lengths = [len(tokens) for tokens, _, _ in chosen]
    width = np.uint16 if vocabulary_size(tokenizer) <= 2**16 else np.uint32
    flat = {
        "tokens": np.concatenate([tokens for tokens, _, _ in chosen]).astype(width),
        "document": np.repeat(np.array([document for _, document, _ in chosen], "<i8"), lengths),
        "domain": np.repeat(np.array([domain for _, _, domain in chosen], np.uint8), lengths),
    }
    return {key: array.reshape(sequences, length) for key, array in flat.items()}


def _take(
    frame: pl.DataFrame,
    tokenizer: Tokenizer,
    end_of_text: int,
    budget: int,
    domain: int,
    name: str,
    split: str,
) -> list[tuple[np.ndarray, int, int]]:
    """Documents, as (tokens, document, domain), until `budget` tokens are full."""
    pieces: list[tuple[np.ndarray, int, int]] = []
    if budget == 0:
        return pieces
    found = 0
    for batch in frame.select("text", "document").iter_slices(256):
        encoded = tokenizer.encode_batch_fast(batch["text"].to_list(), add_special_tokens=False)
        for encoding, document in zip(encoded, batch["document"], strict=True):
            tokens = np.array([*encoding.ids, end_of_text], np.uint32)[: budget - found]
            pieces.append((tokens, int(document, 16), domain))
            found += len(tokens)
            if found == budget:
                return pieces
    raise UserError(
        f"domain {name}: split '{split}' holds {found} tokens in {len(frame)} documents, "
        f"{budget} are asked for; add text, lower corpus.tokens.{split} or give the domain less weight"
    )


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
    domains: tuple[str, ...]
    tokenizer: str  # digest
    first: int  # index in the split of the shard's first sequence
    digest: str


def write_token_shard(
    path: Path | str,
    arrays: Mapping[str, np.ndarray],
    domains: Sequence[str],
    tokenizer: str,
    first: int,
    provenance: Mapping,
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
        file.attrs["first"] = first
        file.attrs["digest"] = _shard_digest(arrays, domains, tokenizer, first)
        file.attrs["made_by"] = artifact.canonical(provenance)


def _shard_digest(
    arrays: Mapping[str, np.ndarray], domains: Sequence[str], tokenizer: str, first: int
) -> str:
    return artifact.digest(*(arrays[name] for name in _ARRAYS), list(domains), tokenizer, first)


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
                first=int(file.attrs["first"]),
                digest=file.attrs["digest"],
            )
    except FileNotFoundError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise unreadable(path, "not a whole token shard", error) from error
    if _shard_digest(arrays, shard.domains, shard.tokenizer, shard.first) != shard.digest:
        raise DamagedError(path, "its tokens do not match their digest")
    return shard


class TokenSplit:
    """All sequences of a split in memory: 4 bytes a token, twice that while it is read.

    `digest` tells splits apart by their tokens, by what attention sees, and by the part taken.
    """

    def __init__(self, paths: Sequence[Path | str], attend_across_documents: bool = False) -> None:
        tokens, domain, starts, digests, count = [], [], [], [], 0
        for path in paths:  # one shard's document ids, which are wide, at a time
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

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, rows: slice) -> TokenSplit:
        """A stretch of the sequences."""
        found = copy.copy(self)
        found.digest = artifact.digest(self.digest, rows.start, rows.stop)
        found.tokens, found.domain = self.tokens[rows], self.domain[rows]
        found.starts = self.starts[rows]
        return found

    @property
    def is_target(self) -> np.ndarray:
        """Positions 1.. that can be predicted from what is before them: [sequence, position - 1]."""
        return ~self.starts[:, 1:]
