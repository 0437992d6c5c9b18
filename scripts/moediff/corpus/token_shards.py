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
