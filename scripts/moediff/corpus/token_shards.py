"""Token shards (HDF5): written whole, verified when read, and a split as one array."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError, unreadable
from moediff.core.scratch import Rows
from moediff.corpus.packing import segment_starts

_ARRAYS = ("tokens", "start", "end", "word_end", "document", "group", "domain")


@dataclass(frozen=True)
class TokenShard:
    """A stretch of packed sequences; arrays are [sequence, position]."""

    tokens: np.ndarray
    document: np.ndarray
    group: np.ndarray  # id of what holds the document and its kin: a file, a repository, a book
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
            facts = (shard.domains, shard.tokenizer, shard.special, shard.first)
            known = _shard_digest(arrays, *facts) == shard.digest
    except FileNotFoundError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise unreadable(path, "not a whole token shard", error) from error
    if not known:
        raise DamagedError(path, "its tokens do not match their digest")
    return shard


class TokenSplit:
    """All sequences of a split: verified once, then read from a file under `scratch` as they are asked for.

    `tokens`, `domain` and `starts` [sequence, position] are `scratch.Rows`: a slice or numbers of sequences
    give an array. On disk they take 4 bytes a token (6 of a large vocabulary), in memory nothing but one
    shard while it is read. `digest` tells splits apart by their tokens, by what attention sees, and by the
    part taken.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        attend_across_documents: bool = False,
        scratch: Path | str | None = None,
    ) -> None:
        digests, count = [], 0
        for path in paths:
            shard = read_token_shard(path)
            if not count:
                self.domains, tokenizer = shard.domains, shard.tokenizer
                width = shard.tokens.shape[1:]
                self.tokens, self.domain, self.starts = (
                    Rows(kind, width, scratch) for kind in (shard.tokens.dtype, np.uint8, np.bool_)
                )
            if (shard.domains, shard.tokenizer) != (self.domains, tokenizer):
                raise UserError(
                    f"{path} and its fellows were made by different tokenizers or domains; "
                    "remove the folder and run again"
                )
            if shard.first != count:
                raise UserError(f"{path} and its fellows do not follow on; remove the folder")
            self.tokens.append(shard.tokens)
            self.domain.append(shard.domain)
            self.starts.append(segment_starts(shard.document, attend_across_documents))
            digests.append(shard.digest)
            count += len(shard.tokens)
        self.digest = artifact.digest(digests, attend_across_documents)
        # Positions 1.. that can be predicted from what is before them: [sequence, position - 1].
        self.is_target = Targets(self.starts, self.domain)

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, rows: slice) -> TokenSplit:
        """A stretch of the sequences."""
        found = copy.copy(self)
        found.digest = artifact.digest(self.digest, rows.start, rows.stop)
        found.tokens, found.domain = self.tokens.part(rows), self.domain.part(rows)
        found.starts = self.starts.part(rows)
        found.is_target = Targets(found.starts, found.domain, self.is_target.learned)
        return found

    def only(self, domains: Sequence[str]) -> TokenSplit:
        """The same sequences, in which tokens of other domains are no targets."""
        found = copy.copy(self)
        found.digest = artifact.digest(self.digest, list(domains))
        wanted = {self.domains.index(name) for name in domains}
        learned = self.is_target.learned
        both = sorted(wanted if learned is None else wanted & {*learned})
        found.is_target = Targets(self.starts, self.domain, both)
        return found


@dataclass(frozen=True)
class Targets:
    """Which positions of sequences are targets, worked out as they are asked for."""

    starts: Rows
    domain: Rows
    learned: list[int] | None = None  # domains; None: all

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """[sequence, position - 1] of bool."""
        targets = ~self.starts[rows][:, 1:]
        if self.learned is not None:
            targets &= np.isin(self.domain[rows][:, 1:], self.learned)
        return targets
