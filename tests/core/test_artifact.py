"""Results are whole or absent, and no altered byte of one is read as content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from moediff.core import artifact
from moediff.core.errors import DamagedError, UserError

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
    assert artifact.read_json(path) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["facts.json"]


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("odd", "twin"), [("b[0]", "b0"), ("a*", "ab"), ("a?", "ab")])
def test_a_table_is_read_by_its_own_name_and_no_other(tmp_path: Path, odd: str, twin: str) -> None:
    for folder in (odd, twin):
        frame = pl.DataFrame({"of": [folder]})
        artifact.write_parquet(tmp_path / folder / "a.parquet", frame, artifact.made_by("test"))
    for folder in (odd, twin):
        assert artifact.read_parquet(tmp_path / folder / "a.parquet")["of"].to_list() == [folder]
    (tmp_path / odd / "a.parquet").unlink()
    with pytest.raises(FileNotFoundError):
        artifact.read_parquet(tmp_path / odd / "a.parquet")


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(
    tmp_path: Path,
) -> None:
    own, other = tmp_path / ".a[0].json.1.partial", tmp_path / ".a0.json.1.partial"
    own.touch(), other.touch()
    artifact.write_json(tmp_path / "a[0].json", {"a": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "a[0].json"]


def test_a_table_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    artifact.write_parquet(path, FRAME, artifact.made_by("test"))

    def refuse(*_: object, **__: object) -> None:  # root may read everything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(
        UserError, match=r"a\.parquet: cannot be read now \(Permission denied\)"
    ) as caught:
        artifact.read_parquet(path)
    assert "rm " not in str(caught.value)
