"""Documents packed into sequences of one length.

Documents of a split are shuffled, joined with an end-of-text token after each, and cut into
sequences. A *segment* is a stretch of one document inside one sequence: what attention sees when it
does not cross documents.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from moediff.config.corpus import domain_budgets
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.core.scratch import Records
from moediff.corpus.document import group_id
from moediff.corpus.encoding import encode, token_types

_TEXT = struct.Struct("<qQ")  # before a text and its group: id, bytes of the text
_DOCUMENT = struct.Struct("<qqqq")  # before the arrays of one: id, group, domain, tokens
_OWN: dict[str, Any] = {
    "document": np.dtype("<i8"),
    "group": np.dtype("<i8"),
    "domain": np.dtype(np.uint8),
}


def packed(
    corpus: Mapping[str, Path | str],
    weights: Mapping[str, float],
    tokenizer: Tokenizer,
    end_of_text: int,
    split: str,
    sequences: int,
    length: int,
    seed: int,
    per_shard: int,
    scratch: Path | str | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Arrays `tokens`, `start`, `end`, `word_end`, `document`, `group`, `domain` of one split, each
    [sequence, position], shard after shard of `per_shard` sequences.

    Each domain gives exactly its budget of tokens: documents in an order fixed by `seed`, the last
    one cut. A text that two domains hold stays with the first. Texts and their tokens lie in files under
    `scratch` meanwhile; in memory are a shard, and up to 32 bytes a document of the split (and 8 of
    every domain but the last). Raises UserError when a domain has too little text.
    """
    budgets = domain_budgets(sequences * length, weights)
    encoded = Records(scratch)  # a document each, in the order of its domain
    taken = np.empty(0, np.int64)  # ids in the domains before
    for index, (name, budget) in enumerate(budgets.items()):
        known = [taken]
        texts, order = _texts(corpus[name], split, known, scratch)
        order = order[np.random.default_rng([seed, index]).permutation(len(order))]
        taken = np.concatenate(known) if index + 1 < len(budgets) else taken
        found = _encode(encoded, texts, order, name, index, budget, tokenizer, end_of_text)
        if found < budget:
            raise UserError(
                f"domain '{name}': split '{split}' holds {found} tokens in {len(texts)} "
                f"documents, {budget} are asked for; add text, lower corpus.tokens.{split}, give the "
                f"domain less weight or raise corpus.splits.{split} (shares of groups such as files: "
                "many small ones split more evenly)"
            )
    mixed = np.random.default_rng([seed, len(weights)]).permutation(len(encoded))
    kinds = token_types(tokenizer)
    documents = (_document(encoded[int(number)], kinds) for number in mixed)
    return _cut(documents, kinds, sequences, length, per_shard)


def _texts(
    path: Path | str, split: str, known: list[np.ndarray], scratch: Path | str | None
) -> tuple[Records, np.ndarray]:
    """The documents of a split of one domain, and their numbers in order of their ids.

    A record is id, length of the text in bytes, text, group. Ids `known`, one array, are passed over;
    those of the domain's other documents, of every split, are added to it, array after array.
    """
    before, texts, ids = np.sort(known[0]), Records(scratch), array("q")
    for frame in artifact.parquet_parts(path, ["text", "document", "group", "split"]):
        numbers = frame["document"].str.to_integer(base=16).to_numpy()
        new = ~_among(before, numbers)
        known.append(numbers[new])
        wanted = np.flatnonzero(new & (frame["split"] == split).to_numpy())
        for number, text, group in zip(
            numbers[wanted].tolist(), frame["text"][wanted], frame["group"][wanted], strict=True
        ):
            content = text.encode()
            texts.append(_TEXT.pack(number, len(content)), content, group.encode())
            ids.append(number)
    return texts, np.argsort(np.array(ids, np.int64))


def _among(known: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Which numbers are among sorted ones."""
    if not len(known):
        return np.zeros(len(numbers), bool)
    place = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    return known[place] == numbers


def _encode(
    encoded: Records,
    texts: Records,
    order: np.ndarray,
    name: str,
    index: int,
    budget: int,
    tokenizer: Tokenizer,
    end_of_text: int,
) -> int:
    """Add encoded documents in an order until they are `budget` tokens, the last cut; how many they are.

    A record is id, group, domain, number of tokens, and the arrays of `encode`.
    """
    facts: list[tuple[int, int]] = []  # of texts that were given to the tokenizer

    def read() -> Iterator[str]:
        for number in order:
            record = memoryview(texts[int(number)])
            identity, size = _TEXT.unpack_from(record)
            text = record[_TEXT.size : _TEXT.size + size]
            facts.append((identity, group_id(name, str(record[_TEXT.size + size :], "utf-8"))))
            yield str(text, "utf-8")

    done = 0
    for arrays in encode(tokenizer, read(), end_of_text):
        count = min(len(arrays["tokens"]), budget - done)
        parts = (np.ascontiguousarray(part[:count]) for part in arrays.values())
        encoded.append(_DOCUMENT.pack(*facts.pop(0), index, count), *parts)
        done += count
        if done == budget:
            break
    return done


def _document(record: bytearray, kinds: Mapping[str, type]) -> dict[str, np.ndarray]:
    """The arrays of one encoded document, and its id, group and domain [1]."""
    identity, group, domain, count = _DOCUMENT.unpack_from(record)
    place = _DOCUMENT.size
    found: dict[str, np.ndarray] = {}
    for name, kind in kinds.items():
        found[name] = np.frombuffer(record, kind, count, place)
        place += found[name].nbytes
    for name, value in zip(_OWN, (identity, group, domain), strict=True):
        found[name] = np.array([value], _OWN[name])
    return found


def _cut(
    documents: Iterable[Mapping[str, np.ndarray]],
    kinds: Mapping[str, type],
    sequences: int,
    length: int,
    per_shard: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Documents joined, and cut into shards of sequences of one length."""

    def begun(first: int) -> dict[str, np.ndarray]:
        size = min(per_shard, sequences - first) * length
        every: dict[str, Any] = {**kinds, **_OWN}
        return {name: np.empty(size, kind) for name, kind in every.items()}

    first = place = 0
    shard = begun(first)
    for document in documents:
        left = len(document["tokens"])
        while left:
            start = len(document["tokens"]) - left
            count = min(left, len(shard["tokens"]) - place)
            for name, values in shard.items():
                whole = document[name]
                values[place : place + count] = (
                    whole if name in _OWN else whole[start : start + count]
                )
            left -= count
            place += count
            if place == len(shard["tokens"]):
                yield {name: part.reshape(-1, length) for name, part in shard.items()}
                first += per_shard
                place = 0
                shard = begun(min(first, sequences))


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
