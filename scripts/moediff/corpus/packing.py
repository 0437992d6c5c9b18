"""Documents packed into sequences of one length.

Documents of a split are shuffled, joined with an end-of-text token after each, and cut into
sequences. A *segment* is a stretch of one document inside one sequence: what attention sees when it
does not cross documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from tokenizers import Tokenizer

from moediff.config.corpus import domain_budgets
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.corpus.document import group_id
from moediff.corpus.encoding import encode, token_types


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
    """Arrays `tokens`, `start`, `end`, `word_end`, `document`, `group`, `domain` of one split, each
    [sequence, position].

    Each domain gives exactly its budget of tokens: documents in an order fixed by `seed`, the last
    one cut. A text that two domains hold stays with the first. Raises UserError when a domain has
    too little text.
    """
    # Filled in place and then mixed one array after another: there are never two copies of all.
    flat: dict[str, np.ndarray] = {
        name: np.empty(sequences * length, kind) for name, kind in token_types(tokenizer).items()
    }
    documents: list[int] = []
    groups: list[int] = []
    domains: list[int] = []
    lengths: list[int] = []
    taken: set[str] = set()
    for index, (name, budget) in enumerate(domain_budgets(sequences * length, weights).items()):
        frame = artifact.read_parquet(corpus[name], ["text", "document", "group", "split"])
        frame = frame.filter(~pl.col("document").is_in(list(taken)))
        taken.update(frame["document"])
        frame = frame.filter(pl.col("split") == split).sort("document")
        frame = frame[np.random.default_rng([seed, index]).permutation(len(frame))]
        part = slice(sum(lengths), sum(lengths) + budget)
        found = _fill(flat, part, frame["text"], tokenizer, end_of_text)
        if sum(found) < budget:
            raise UserError(
                f"domain '{name}': split '{split}' holds {sum(found)} tokens in {len(frame)} "
                f"documents, {budget} are asked for; add text, lower corpus.tokens.{split}, give the "
                f"domain less weight or raise corpus.splits.{split} (shares of groups such as files: "
                "many small ones split more evenly)"
            )
        lengths += found
        documents += [int(document, 16) for document in frame["document"][: len(found)]]
        groups += [group_id(name, group) for group in frame["group"][: len(found)]]
        domains += [index] * len(found)
    mixed = np.random.default_rng([seed, len(weights)]).permutation(len(lengths))
    edges = np.cumsum([0, *lengths])
    for name, array in flat.items():
        flat[name] = np.concatenate([array[edges[i] : edges[i + 1]] for i in mixed])
    sizes = np.array(lengths)[mixed]
    flat["document"] = np.repeat(np.array(documents, "<i8")[mixed], sizes)
    flat["group"] = np.repeat(np.array(groups, "<i8")[mixed], sizes)
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
