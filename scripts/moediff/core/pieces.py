"""Tensors written piece by piece: no process ever holds all of them, nor one of them whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moediff.core import artifact

# How safetensors calls the types of what is written so.
_NAMES = {torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.bfloat16: "BF16"}


class Kind(NamedTuple):
    """What a file says of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]


def in_order(kinds: Mapping[str, Kind]) -> list[str]:
    """Names of tensors as they lie in a file: wide types first, those of one type by name."""
    return sorted(kinds, key=lambda name: (-kinds[name].dtype.itemsize, name))


def write(
    path: Path | str, kinds: Mapping[str, Kind], pieces: Iterable[Tensor], metadata: Mapping
) -> None:
    """Write tensors as `artifact.write_tensors` does, to the byte.

    `pieces` are on the CPU and follow on one another: of the first tensor of `in_order` the first rows,
    then the next, to the end of the last tensor.
    """
    facts = json.loads(artifact.canonical(metadata))  # as they are read
    with artifact.whole(path) as partial:
        with open(partial, "wb") as file:
            file.write(_header(kinds, facts, "0" * 32))
            for piece in pieces:
                file.write(piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        content = artifact.digest(artifact.digest_tensors(partial), facts)
        with open(partial, "r+b") as file:
            file.write(_header(kinds, facts, content))


def _header(kinds: Mapping[str, Kind], facts: Mapping[str, Any], content: str) -> bytes:
    """What safetensors puts before the numbers."""
    about: dict[str, Any] = {"__metadata__": artifact.sealed(facts, content)}
    end = 0
    for name in in_order(kinds):
        dtype, shape = kinds[name]
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        about[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(about, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
