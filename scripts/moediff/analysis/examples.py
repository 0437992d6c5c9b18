"""Where a feature fires strongest, and the text around it.

Of every feature that fires, the COUNT rows of largest activation, at most one a document: the same
word twenty times in one file would say no more than once. Around each a window of its document: up
to BEFORE tokens before and AFTER after it, as long as their rows follow on, position by position, in
the same sequence, which is what the model saw. A row that was left out ends the window.

Two passes over the rows, which stand in a mixed order: the first finds the rows, the second gathers
their windows, and computes of each row only the features whose windows it is in. Memory goes with
features x COUNT (x the window), not with the rows.

    F  features      E  examples, at most F COUNT      W  BEFORE + 1 + AFTER
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer

from moediff.activations.rows import AlignedRows
from moediff.analysis.evaluation import coded
from moediff.core import artifact
from moediff.core.errors import UserError
from moediff.core.progress import Progress
from moediff.corpus.tokenizer import load_tokenizer, open_tokenizer
from moediff.dictionaries.dictionary import Dictionary, in_float64

COUNT = 8
BEFORE, AFTER = 16, 8
WIDTH = BEFORE + 1 + AFTER
_FACTS = ("document", "sequence", "position", "domain")
_PLACES = 1 << 32  # more than a sequence has positions
_DECODED = 512  # windows that are decoded at once
_UNFINISHED = "\ufffd"  # what bytes decode to that are no whole character


# --- which rows ---------------------------------------------------------------------------------


class Strongest:
    """The COUNT rows on which each feature is strongest, at most one a document; ties: the first row.

    Arrays are [F, COUNT], by falling value; a value of -inf is none.
    """

    def __init__(self, features: int) -> None:
        self.value = np.full((features, COUNT), -np.inf)
        self.facts = {name: np.zeros((features, COUNT), np.int64) for name in ("row", *_FACTS)}

    def add(self, feature: np.ndarray, value: np.ndarray, facts: dict[str, np.ndarray]) -> None:
        """Count firings [n], which come after all before; `facts` are their `row` and _FACTS [n]."""
        better = value > self.value[feature, -1]
        own = np.unique(feature[better])  # the features whose rows may change
        feature = np.concatenate([np.repeat(own, COUNT), feature[better]])
        value = np.concatenate([self.value[own].ravel(), value[better]])
        facts = {
            name: np.concatenate([kept[own].ravel(), facts[name][better]])
            for name, kept in self.facts.items()
        }
        row, document = facts["row"], facts["document"]
        order = np.lexsort((row, -value, document, feature))
        kept = order[_changes(feature[order], document[order]) & np.isfinite(value[order])]
        order = kept[np.lexsort((row[kept], -value[kept], feature[kept]))]
        starts = np.flatnonzero(_changes(feature[order]))
        rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
        order, rank = order[rank < COUNT], rank[rank < COUNT]
        self.value[feature[order], rank] = value[order]
        for name, table in self.facts.items():
            table[feature[order], rank] = facts[name][order]


def _changes(*columns: np.ndarray) -> np.ndarray:
    """Whether each row [row] of sorted columns is the first or differs from the one before it."""
    found = np.ones(len(columns[0]), bool)
    found[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return found


# --- their windows ------------------------------------------------------------------------------


class _Windows:
    """Token and activation of every cell [E, W] around examples, gathered from rows in any order."""

    def __init__(self, feature: np.ndarray, facts: dict[str, np.ndarray]) -> None:
        pairs = list(zip(facts["document"].tolist(), facts["sequence"].tolist(), strict=True))
        self.segments = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        segment = np.array([self.segments[pair] for pair in pairs], np.int64)
        around = np.arange(-BEFORE, AFTER + 1)
        keys = ((segment * _PLACES + facts["position"])[:, None] + around).ravel()
        self.cells = np.argsort(keys, kind="stable")
        self.keys = keys[self.cells]
        self.token = np.zeros(len(keys), np.int64)
        self.value = np.zeros(len(keys))
        self.there = np.zeros(len(keys), bool)

    def add(self, columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Count a batch by its columns [row]: the cells [n] that its rows fill, and the row of each.

        A row may stand in the windows of several features.
        """
        pairs = zip(columns["document"].tolist(), columns["sequence"].tolist(), strict=True)
        segment = np.array([self.segments.get(pair, -1) for pair in pairs], np.int64)
        wanted = np.flatnonzero(segment >= 0)
        key = segment[wanted] * _PLACES + columns["position"][wanted]
        first, last = (np.searchsorted(self.keys, key, side) for side in ("left", "right"))
        sizes = last - first
        row = np.repeat(wanted, sizes)
        inside = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        cell = self.cells[np.repeat(first, sizes) + inside]
        self.token[cell] = columns["token"][row]
        self.there[cell] = True
        return cell, row

    def runs(self) -> list[slice]:
        """Of each example, the cells around its peak whose rows follow on: within its W."""
        there = self.there.reshape(-1, WIDTH)
        before = np.logical_and.accumulate(there[:, BEFORE::-1], axis=1).sum(1)
        after = np.logical_and.accumulate(there[:, BEFORE:], axis=1).sum(1)
        return [
            slice(BEFORE + 1 - int(b), BEFORE + int(a)) for b, a in zip(before, after, strict=True)
        ]


# --- their text ---------------------------------------------------------------------------------


def read_tokenizer(path: Path | str) -> tuple[Tokenizer, str]:
    """A tokenizer and its digest, as token shards have it.

    `path` is a tokenizer.json, or the model.json of a checkpoint that is read by its own tokenizer.
    """
    path = Path(path)
    if path.name != "model.json":
        return open_tokenizer(path), artifact.digest_files([path])
    facts = artifact.read_json(path)
    folder = path.parent if facts["folder"] == "." else Path(facts["folder"])
    tokenizer, *_ = load_tokenizer(str(folder), None, str(path))
    return tokenizer, artifact.digest(tokenizer.to_str())


def pieces(tokenizer: Tokenizer, windows: Sequence[Sequence[int]]) -> list[list[str]]:
    """The text of each token of each window; joined, they are the window decoded.

    A token adds what it adds to the tokens before it, so that spaces are where the tokenizer puts
    them. Bytes of a character that is not finished give nothing: the token that ends it has all of
    it. At the end of a window they are U+FFFD, as at its beginning those whose first are outside.
    """
    found = []
    for start in range(0, len(windows), _DECODED):
        part = windows[start : start + _DECODED]
        beginnings = [list(window[: n + 1]) for window in part for n in range(len(window))]
        texts = iter(tokenizer.decode_batch(beginnings, skip_special_tokens=False))
        for window in part:
            grown = [next(texts) for _ in window]
            whole = [text.rstrip(_UNFINISHED) for text in grown[:-1]] + grown[-1:]
            ends = [0, *map(len, whole)]
            found.append([text[end:] for text, end in zip(whole, ends, strict=False)])
    return found


# --- of a dictionary ----------------------------------------------------------------------------


def feature_examples(
    dictionary: Dictionary,
    data: AlignedRows,
    tokenizer: Tokenizer,
    batch: int,
    device: torch.device,
) -> pl.DataFrame:
    """The strongest examples of every feature that fires, one row an example.

    `tokenizer` is that of the first source. Columns: `feature`, `rank` (from 0, by falling
    activation), `domain`, `row` (of the split, of the peak), `activation` (there), `tokens` (text of
    each token of the window), `activations` (the feature's own at each of them, 0 where it does not
    fire) and `peak` (place of the row in the two lists). Activations are in standardised units.
    """
    dictionary = in_float64(dictionary, device)  # once, for two passes
    strongest, done = Strongest(dictionary.shape.features), 0
    for (_, entries, values), columns in zip(
        coded(dictionary, data, batch, device, "strongest rows"),
        _columns(data, batch, _FACTS),
        strict=True,
    ):
        row, feature, value = (part.cpu().numpy() for part in (*entries, values))
        facts = {name: column[row] for name, column in columns.items()}
        strongest.add(feature, value, facts | {"row": done + row})
        done += len(columns["document"])
    feature, rank = np.nonzero(np.isfinite(strongest.value))
    facts = {name: kept[feature, rank] for name, kept in strongest.facts.items()}

    windows = _Windows(feature, facts)
    progress = Progress(data.count, "examples", "rows")
    for sources, columns in zip(
        data.in_order(batch),
        _columns(data, batch, ("token", "document", "sequence", "position")),
        strict=True,
    ):
        cell, row = windows.add(columns)
        rows = dictionary.standardise([part.to(device) for part in sources])
        own = feature[cell // WIDTH]
        place, features = (torch.from_numpy(part).to(device) for part in (row, own))
        windows.value[cell] = dictionary.values_at(rows, (place, features)).cpu().numpy()
        progress.advance(len(rows))
    progress.close()
    # Its own value is that by which it was chosen, to the last bit.
    windows.value.reshape(-1, WIDTH)[:, BEFORE] = strongest.value[feature, rank]
    runs = windows.runs()
    token, value = (part.reshape(-1, WIDTH) for part in (windows.token, windows.value))
    text = pieces(tokenizer, [part[run].tolist() for part, run in zip(token, runs, strict=True)])
    return pl.DataFrame(
        {
            "feature": feature,
            "rank": rank,
            "domain": [data.domains[number] for number in facts["domain"]],
            "row": facts["row"],
            "activation": strongest.value[feature, rank],
            "tokens": text,
            "activations": [part[run].tolist() for part, run in zip(value, runs, strict=True)],
            "peak": [BEFORE - run.start for run in runs],
        },
        schema={
            "feature": pl.Int64, "rank": pl.Int64, "domain": pl.String, "row": pl.Int64,
            "activation": pl.Float32, "tokens": pl.List(pl.String),
            "activations": pl.List(pl.Float32), "peak": pl.Int64,
        },
    )  # fmt: skip


def _columns(
    data: AlignedRows, batch: int, names: Sequence[str]
) -> Iterator[dict[str, np.ndarray]]:
    """Columns [row] by name, batch by batch."""
    for found in zip(*(data.column_in_order(name, batch) for name in names), strict=True):
        yield {name: part.numpy() for name, part in zip(names, found, strict=True)}


def check_tokenizer(data: AlignedRows, digest: str, path: Path | str) -> None:
    """Refuse a tokenizer that is not the one by which the first source read its rows."""
    shard = data.sources[0][0]
    if shard.facts["tokenizer"] is None:
        raise UserError(f"{shard.path}: its rows are external activations, whose text is not known")
    if shard.facts["tokenizer"] != digest:
        raise UserError(
            f"{path}: rows of {shard.path} were read by another tokenizer; remove these and run "
            "the same snakemake command again"
        )
