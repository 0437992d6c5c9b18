"""Results are whole or absent, and no altered byte of one is read as content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from moediff.core import artifact
from moediff.core.errors import DamagedError

FRAME = pl.DataFrame(
    {
        "text": ["one", None, "trois \u00e9t\u00e9s", ""] * 300,
        "count": list(range(1200)),
        "share": np.random.default_rng(0).normal(size=1200),
        "flag": [True, False, None, True] * 300,
    }
)
TENSORS = {
    "half": torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "whole": torch.arange(40),
}  # fmt: skip


def flips(path: Path, read: Callable, same: Callable) -> int:
    """Flip bytes of a file one by one: each read gives the same content or DamagedError."""
    whole, named = path.read_bytes(), 0
    for place in np.linspace(0, len(whole) - 1, 500).astype(int):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            assert same(read(path)), f"byte {place}"
        except DamagedError:
            named += 1
    path.write_bytes(whole)
    assert same(read(path))
    return named


def test_no_flipped_byte_of_a_table_is_read_as_content(tmp_path: Path, capfd) -> None:
    path = tmp_path / "table.parquet"
    artifact.write_parquet(path, FRAME, artifact.made_by("test"))
    assert flips(path, artifact.read_parquet, FRAME.equals) > 300
    assert artifact.read_parquet(path, ["count"]).equals(FRAME.select("count"))


def test_no_flipped_byte_of_tensors_is_read_as_content(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    artifact.write_tensors(path, TENSORS, {"step": 3})
    (path.parent / "plain").touch()
    assert path.stat().st_mode == (path.parent / "plain").stat().st_mode  # colleagues can read it

    def same(found: tuple[dict, dict]) -> bool:
        return found[0].keys() == TENSORS.keys() and all(
            torch.equal(found[0][name], TENSORS[name]) for name in TENSORS
        )

    assert flips(path, artifact.read_tensors, same) > 300
    assert artifact.read_tensors(path)[1] == {"step": 3}


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    artifact.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        artifact.write_json(path, {"a": float("nan")})
    assert artifact.read_json(path)["a"] == 1
    assert [found.name for found in tmp_path.iterdir()] == ["facts.json"]
