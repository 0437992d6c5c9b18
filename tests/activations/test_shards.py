"""Activation shards: written whole, in a mixed order, and every damage named."""

from __future__ import annotations

import errno
import os
import weakref
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import zarr
from zarr.storage import ZipStore

from conftest import made_facts
from moediff.activations import shards
from moediff.activations.moments import Moments
from moediff.activations.shard_writer import ShardWriter
from moediff.activations.shards import (
    COLUMNS,
    MOST_OPEN,
    TYPES,
    Shard,
    Stored,
    scale_exponent,
    summary,
)
from moediff.core.errors import DamagedError, UserError

ROWS = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)


def columns_of(count: int) -> dict[str, np.ndarray]:
    """Rows that say where they stood before they were mixed."""
    row = np.arange(count)
    return {name: (row if name in ("position", "start", "end") else row // 50).astype(TYPES[name])
            for name in COLUMNS}  # fmt: skip


def write(path: Path, dtype: str = "float32", chunk_rows: int = 256, blocks: int = 3) -> Path:
    """Two hook points and a routed layer, in several blocks of rows."""
    points = {"one": Stored("resid_post.1", 16, 0), "two": Stored("mlp_out.1", 8, 3, 4.0)}
    writer = ShardWriter(path, columns_of(len(ROWS)), points, dtype, chunk_rows)
    for part in np.array_split(np.arange(len(ROWS)), blocks):
        rows = torch.from_numpy(ROWS[part])
        experts = torch.from_numpy(part % 7)[:, None].repeat(1, 2).to(torch.int16)
        more = {"experts.1": experts, "gates.1": rows[:, :2]}
        writer.add({"one": rows, "two": rows[:, :8]}, more)
    writer.write(made_facts("m"))
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write(tmp_path / "a.zarr.zip")


# --- contents -----------------------------------------------------------------------------------


def test_all_arrays_of_a_row_stay_together(whole: Path) -> None:
    shard = Shard(whole)
    place = shard.read("position")
    assert sorted(place) == list(range(1000))
    assert not (np.diff(place) == 1).all()
    np.testing.assert_array_equal(shard.rows(0, 1000, "one").numpy(), ROWS[place])
    np.testing.assert_array_equal(shard.rows(200, 300, "two").numpy(), ROWS[place[200:300], :8])
    np.testing.assert_array_equal(shard.read("experts.1")[:, 1], place % 7)
    np.testing.assert_array_equal(shard.read("gates.1"), ROWS[place, :2])
    np.testing.assert_array_equal(shard.read("document"), place // 50)
    assert shard.routed() == [1]
    assert shard.points["two"]["hook"] == "mlp_out.1"


def test_a_chunk_is_a_sample_of_the_whole_shard(whole: Path) -> None:
    documents = Shard(whole).read("document")
    for start in range(0, 768, 256):
        counts = np.bincount(documents[start : start + 256], minlength=20)
        assert ((counts - 12.8) ** 2 / 12.8).sum() < 43.8  # chi-square of 19 degrees, p = 0.001


def test_reading_is_what_zarr_reads(whole: Path) -> None:
    shard = Shard(whole)
    group = zarr.open_group(ZipStore(whole, mode="r"), mode="r")
    for name in shard.facts["arrays"]:
        for part in (slice(None), slice(0, 0), slice(3, 700), slice(256, 512), slice(999, 1200)):
            np.testing.assert_array_equal(
                shard.read(name, part.start or 0, part.stop), group[name][part]
            )


def test_blocks_and_chunks_change_no_value(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1.zip", blocks=1), write(tmp_path / "2.zip", "float32", 77, 9)
    for name in Shard(one).facts["arrays"]:
        if not name.endswith(("mean", "spread")):
            np.testing.assert_array_equal(Shard(one).read(name), Shard(two).read(name))
    for point in ("one", "two"):
        a, b = Shard(one).moments(point), Shard(two).moments(point)
        np.testing.assert_allclose(a.mean, b.mean, atol=1e-12)
        np.testing.assert_allclose(a.spread, b.spread, rtol=1e-12)


def test_a_shard_written_at_another_time_has_the_same_bytes(tmp_path: Path, monkeypatch) -> None:
    now = write(tmp_path / "now.zarr.zip").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("zipfile.time.time", lambda: 1e9)  # in 2001
        assert write(tmp_path / "then.zarr.zip").read_bytes() == now


def test_a_scale_is_a_power_of_two_near_the_typical_size() -> None:
    assert scale_exponent(1.0, "float16") == 0
    assert scale_exponent(1000.0, "float16") == -10
    assert scale_exponent(0.001, "float16") == 10
    assert scale_exponent(1000.0, "float32") == 0


def test_moments_are_of_the_stored_rows_and_leave_massive_ones_out(tmp_path: Path) -> None:
    shard = Shard(write(tmp_path / "a.zip", "float16"))
    rows = shard.rows(0, 1000, "two").double().numpy()
    massive = shard.massive("two")
    assert 5 < massive.sum() < 500
    np.testing.assert_array_equal(
        massive, np.linalg.norm(ROWS[shard.read("position"), :8], axis=1) > 4
    )
    found = shard.moments("two")
    assert found.count == 1000 - massive.sum() == 1000 - shard.facts["massive"]["two"]
    np.testing.assert_allclose(found.mean, rows[~massive].mean(0), atol=1e-12)
    np.testing.assert_allclose(found.spread / found.count, rows[~massive].var(0), rtol=1e-12)
    assert shard.massive("one") is None


def test_rows_can_be_taken_out_of_moments_again() -> None:
    rows = torch.randn(500, 6, dtype=torch.float64) * 3 + 100
    found = Moments(6)
    found.add(rows)
    found.remove(rows[:120])
    np.testing.assert_allclose(found.mean, rows[120:].mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.spread, rows[120:].var(0, correction=0) * 380, rtol=1e-9)
    found.remove(rows[120:])
    assert found.count == 0
    assert np.abs(found.spread).max() < 1e-6


def test_a_summary_adds_up_shards(whole: Path, tmp_path: Path) -> None:
    found = summary([whole, write(tmp_path / "b.zarr.zip", "float32", 100)])
    massive = 2 * Shard(whole).facts["massive"]["two"]
    assert found["rows"] == 2000
    assert found["left_out"] == {"massive_norm two": massive}
    variance = ROWS.astype(np.float64).var(0).sum()
    assert found["points"]["one"]["total_variance"] == pytest.approx(variance)
    assert found["routed_layers"] == [1]


def test_a_summary_holds_few_of_many_shards(whole: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:05d}.zarr.zip" for number in range(3 * MOST_OPEN)]
    for path in paths:
        os.link(whole, path)
    alive: weakref.WeakSet[Shard] = weakref.WeakSet()
    most = 0

    class Counted(Shard):
        def __init__(self, path: Path | str) -> None:
            nonlocal most
            super().__init__(path)
            alive.add(self)
            most = max(most, len(alive))

    with mock.patch.object(shards, "Shard", Counted):
        assert summary(paths)["rows"] == len(paths) * len(ROWS)
    assert most <= MOST_OPEN + 2  # those whose file is open, the first, and the next


# --- what is wrong ------------------------------------------------------------------------------


def test_an_overflow_and_a_nan_stop_the_job_and_name_the_document(tmp_path: Path) -> None:
    columns = columns_of(3) | {"document": np.full(3, 7)}
    for value, said in ((70_000.0, "overflows float16"), (np.nan, "not a finite")):
        path = tmp_path / "a.zarr.zip"
        writer = ShardWriter(path, columns, {"p": Stored("p.0", 1, 0)}, "float16", 2)
        with pytest.raises(UserError, match=said) as raised:
            writer.add({"p": torch.tensor([[1.0], [value], [2.0]])})
        assert "document 000000000000007" in str(raised.value)
        assert list(tmp_path.iterdir()) == []


def test_too_few_and_too_many_rows_are_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "a", columns_of(3), {"p": Stored("p.0", 1, 0)}, "float32", 2)
    writer.add({"p": torch.ones(2, 1)})
    with pytest.raises(UserError, match="2 rows were captured, 3"):
        writer.write(made_facts("m"))
    with pytest.raises(UserError, match="4 rows were captured, 3"):
        writer.add({"p": torch.ones(2, 1)})
    with pytest.raises(UserError, match="every row"):
        ShardWriter(tmp_path / "a", columns_of(0), {}, "float32", 2)


def test_every_kind_of_damage_is_named(whole: Path) -> None:
    content = whole.read_bytes()
    place = content.index(b"one/c/1/0") + 500
    flipped = bytearray(content)
    flipped[place] ^= 1
    whole.write_bytes(flipped)
    shard = Shard(whole)
    with pytest.raises(DamagedError, match=r"a\.zarr\.zip.*'one'.*chunk 1.*rm "):
        shard.read("one")
    shard.read("two"), shard.read("one", 0, 256)  # the rest is whole
    for size in (0, 100, len(content) // 2, len(content) - 3):
        whole.write_bytes(content[:size])
        with pytest.raises(DamagedError, match=r"a\.zarr\.zip"):
            Shard(whole)
    whole.write_bytes(content)
    absent = whole.with_name("absent.zarr.zip")
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(absent, "w") as new:
        for name in old.namelist():
            if name != "one/c/1/0":
                new.writestr(name, old.read(name))
    with pytest.raises(DamagedError, match="one/c/1/0"):
        Shard(absent)


def test_a_shard_cut_after_it_was_opened_is_named(whole: Path) -> None:
    shard = Shard(whole)
    os.truncate(whole, 2000)
    with pytest.raises(DamagedError, match=r"a\.zarr\.zip"):
        shard.read("two")


def test_a_refusal_of_the_machine_is_not_called_damage(whole: Path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("moediff.activations.shards.zipfile.ZipFile", refuse)
    with pytest.raises(UserError, match="cannot be read now") as caught:
        Shard(whole)
    assert not isinstance(caught.value, DamagedError)


def test_every_flip_in_a_shard_is_damage_or_harmless(tmp_path: Path) -> None:
    """No byte of a shard, changed, gives other values or a traceback."""
    path = tmp_path / "a.zarr.zip"
    values = torch.randn(60, 3)
    writer = ShardWriter(path, columns_of(60), {"p": Stored("p.0", 3, 0)}, "float32", 20)
    writer.add({"p": values})
    writer.write(made_facts("m"))
    wanted = {name: Shard(path).read(name) for name in (*COLUMNS, "p", "p.mean")}
    content, named = path.read_bytes(), 0
    for place in np.linspace(0, len(content) - 1, 400).astype(int):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        try:
            shard = Shard(path)
            for name, array in wanted.items():
                np.testing.assert_array_equal(shard.read(name), array)
        except UserError:
            named += 1
    assert named > 200


def test_an_unknown_point_is_named_with_those_there_are(whole: Path) -> None:
    with pytest.raises(UserError, match="no hook point 'three'; it has one, two"):
        Shard(whole).point("three")
    with pytest.raises(UserError, match="it has one, two"):
        Shard(whole).point(None)
