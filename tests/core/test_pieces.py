"""Tensors written piece by piece: the bytes of a file that is written at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moediff.core import artifact, pieces
from moediff.core.errors import UserError
from moediff.core.pieces import Kind

TENSORS = {
    "b/é": torch.rand(7, 3), "a": torch.arange(5), "step": torch.tensor(3.0), "none": torch.empty(0, 4),
    "c": torch.rand(2, 2, dtype=torch.float64), "d": torch.rand(3).bfloat16(),
}  # fmt: skip
KINDS = {name: Kind(tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}
FACTS = {"format": artifact.FORMAT, "said": 'é "so" \\ \n', "number": 0.1}


def test_a_file_of_pieces_has_the_bytes_of_one_written_at_once(tmp_path: Path) -> None:
    rows = [
        row
        for name in pieces.in_order(KINDS)
        for row in (TENSORS[name].split(2) if TENSORS[name].ndim else [TENSORS[name]])
    ]
    artifact.write_tensors(tmp_path / "whole.safetensors", TENSORS, FACTS)
    pieces.write(tmp_path / "pieces.safetensors", KINDS, iter(rows), FACTS)
    whole, parts = (tmp_path / f"{name}.safetensors" for name in ("whole", "pieces"))
    assert parts.read_bytes() == whole.read_bytes()
    assert artifact.read_tensors(parts)[1]["said"] == FACTS["said"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [parts.name, whole.name]


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    def ends():
        yield torch.zeros(1)
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        pieces.write(tmp_path / "a.safetensors", KINDS, ends(), FACTS)
    assert not list(tmp_path.iterdir())
