"""Results are whole or absent, and no altered byte of one is read as content."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from disks import small_disk
from moediff.core import artifact, checkpoint, seal
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


def test_a_damaged_table_never_reaches_polars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit can make polars ask for exabytes, which ends the process: no handler sees it."""
    path = tmp_path / "table.parquet"
    artifact.write_parquet(path, FRAME, artifact.made_by("test"))
    whole = path.read_bytes()
    mark = whole.index(seal.MARK)

    def abort(*_: object, **__: object) -> None:
        raise AssertionError("reached polars")

    for reader in ("read_parquet", "read_parquet_metadata"):
        monkeypatch.setattr(pl, reader, abort)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    places = [*range(0, mark, 41), *range(mark + len(seal.MARK), footer + 200), *range(-8, 0)]
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(DamagedError, match=r"table\.parquet"):
            artifact.read_parquet(path)
    for size in (0, 3, 11, mark, footer, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedError, match=r"table\.parquet"):
            artifact.read_parquet(path)


def test_a_sealed_table_is_a_table_to_other_readers(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    artifact.write_parquet(path, FRAME, artifact.made_by("test"))
    assert pl.read_parquet(path).equals(FRAME)
    assert pl.scan_parquet(path).filter(pl.col("count") > 7).collect().height == 1192
    assert pl.from_arrow(pq.read_table(path)).equals(FRAME)


def test_a_table_of_before_with_a_digest_of_each_column_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.parquet"

    def write(digests: dict[str, str]) -> None:
        facts = artifact.made_by("test") | {"content": digests}
        FRAME.write_parquet(path, metadata={"moediff": artifact.canonical(facts)})

    digests = {name: artifact._column_digest(FRAME[name]) for name in FRAME.columns}
    write(digests)
    assert artifact.read_parquet(path).equals(FRAME)
    write(digests | {"share": "0" * 32})
    with pytest.raises(DamagedError, match="its column 'share' does not match"):
        artifact.read_parquet(path)
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


def bits(path: Path, first: int, last: int) -> Iterator[None]:
    """Flip every bit of a stretch of a file, one after another."""
    whole = path.read_bytes()
    for place in range(8 * first, 8 * last):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        yield
    path.write_bytes(whole)


def test_no_flipped_bit_of_what_is_said_of_tensors_is_read_as_content(tmp_path: Path) -> None:
    path = tmp_path / "step-000000031.safetensors"
    facts = {"step": 31, "recipe": {"k": 6, "lr": 1e-3}, "history": [[1, 0.5], [2, None]]}
    artifact.write_tensors(path, TENSORS, facts)
    named = 0
    for _ in bits(path, 0, 8 + int.from_bytes(path.read_bytes()[:8], "little")):
        try:
            tensors, metadata = artifact.read_tensors(path)
        except DamagedError:
            named += 1
        else:
            assert metadata == facts
            assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert named > 3000
    assert artifact.read_tensors(path)[1] == facts


def test_a_key_that_is_a_number_reads_as_it_was_checked(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    artifact.write_tensors(path, TENSORS, {"by step": {10: "b", 9: "a"}, "pair": (1, 2)})
    assert artifact.read_tensors(path)[1] == {"by step": {"9": "a", "10": "b"}, "pair": [1, 2]}
    path = tmp_path / "facts.json"
    artifact.write_json(path, {"by step": {10: "b", 9: "a"}})
    assert artifact.read_json(path)["by step"] == {"9": "a", "10": "b"}


def test_tensors_of_before_whose_digest_left_the_metadata_out_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    facts = {"k": 6, "content": artifact._tensor_digest(TENSORS)}  # what format 3 wrote
    save_file(TENSORS, path, metadata={"moediff": artifact.canonical(facts)})
    assert artifact.read_tensors(path)[1] == {"k": 6}
    new = tmp_path / "new.safetensors"
    artifact.write_tensors(new, TENSORS, {"k": 6})
    with safe_open(new, "pt") as file:
        assert json.loads(file.metadata()["moediff"])["content"] != facts["content"]


FACTS = {"points": {"resid_post.0.5": {"layer": 1, "rms": 4.98807488170828}}, "end_of_text": 0,
         "name": "\u00e9t\u00e9", "rows": [{"fve": 0.9106}, None, True]}  # fmt: skip


def test_no_flipped_bit_of_json_is_read_as_content(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    artifact.write_json(path, FACTS)
    whole, named = artifact.read_json(path), 0
    assert {key: whole[key] for key in FACTS} == FACTS
    for _ in bits(path, 0, path.stat().st_size):
        try:
            assert artifact.read_json(path) == whole
        except DamagedError:
            named += 1
    assert named > 1500
    content = path.read_bytes()
    for size in range(len(content) - 1):  # all but the newline at the end
        path.write_bytes(content[:size])
        with pytest.raises(DamagedError, match=r"points\.json"):
            artifact.read_json(path)


def test_json_of_before_is_read_and_none_of_today_passes_for_it(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    artifact.write_plain_json(path, {**FACTS, "format": 3})
    assert artifact.read_json(path) == {**FACTS, "format": 3}
    artifact.write_json(path, FACTS)
    whole = json.loads(path.read_text(encoding="utf-8"))
    for change, said in (
        ({"format": 3}, "does not match"),
        ({"content": None}, "missing"),
        ({"end_of_text": 1}, "does not match"),
    ):
        artifact.write_plain_json(path, whole | change)
        with pytest.raises(DamagedError, match=said):
            artifact.read_json(path)
    artifact.write_plain_json(path, {**FACTS, "format": 5})
    with pytest.raises(UserError, match="written in format 5"):
        artifact.read_json(path)


@pytest.mark.parametrize(
    "text", ["[1, 2]", "12", "", "[" * 20_000, '{"a": ' + "9" * 5000 + "}", "\ud800"]
)
def test_what_is_no_json_object_of_ours_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DamagedError, match=r"facts\.json"):
        artifact.read_json(path)


def test_a_part_that_is_not_whole_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    assert checkpoint.finished(path) is None
    artifact.write_json(path, {"rows": [1]})
    assert checkpoint.finished(path)["rows"] == [1]
    path.write_bytes(path.read_bytes().replace(b"1\n", b"2\n"))
    assert checkpoint.finished(path) is None


# --- what the machine refuses ---


def writers() -> dict[str, Callable[[Path], None]]:
    """Every way to write a result, by its suffix: some megabytes, so that a small disk fills."""
    random = np.random.default_rng(0)
    values = random.integers(0, 2**40, 400_000)
    source = Path(__file__)

    def text(path: Path) -> None:
        artifact.write_text(path, "".join(map(str, values)))

    return {
        "json": lambda path: artifact.write_json(path, {"values": values.tolist()}),
        "txt": text,
        "parquet": lambda path: artifact.write_parquet(path, pl.DataFrame({"v": values}), {}),
        "safetensors": lambda path: artifact.write_tensors(path, {"v": torch.from_numpy(values)}, {}),
        "copy": lambda path: [artifact.copy_whole(source, path.with_name(f"{n}.py")) for n in range(500)],
    }  # fmt: skip


@pytest.mark.parametrize("kind", writers())
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path, kind: str) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        kept = disk / f"kept.{kind}"
        kept.write_text("whole")
        for path in (kept, disk / f"new.{kind}"):
            with pytest.raises(UserError) as caught:
                writers()[kind](path)
            told = str(caught.value)
            assert "cannot be written (No space left on device); free space there" in told
            assert str(disk) in told
            assert "\n" not in told
            assert "rm " not in told
        assert kept.read_text() == "whole"
        assert not list(disk.glob(".*"))
        assert not (disk / f"new.{kind}").exists()


def test_an_error_of_another_file_is_not_told_of_the_one_that_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        artifact.copy_whole(tmp_path / "there" / "absent", tmp_path / "copy")
    with pytest.raises(ZeroDivisionError), artifact.whole(tmp_path / "facts.json"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(
        UserError, match=r"taken/facts\.json: cannot be written \((Not a dir|File ex)"
    ):
        artifact.write_json(tmp_path / "taken" / "facts.json", {})
    with pytest.raises(UserError, match="cannot be written"):
        artifact.write_json(tmp_path / "taken" / "deeper" / "facts.json", {})
    with pytest.raises(UserError, match=r"cannot be written \(File name too long\)"):
        artifact.write_json(tmp_path / ("n" * 300), {})


@contextmanager
def unprivileged() -> Iterator[None]:
    """What is done here is done by a user whom permissions bind."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    readers = {"json": artifact.read_json, "safetensors": artifact.read_tensors,
               "parquet": artifact.read_parquet}  # fmt: skip
    for kind, read in readers.items():
        path = tmp_path / f"result.{kind}"
        writers()[kind](path)
        read(path)  # imports what it needs while it may
        path.chmod(0)
        with unprivileged(), pytest.raises(UserError) as caught:
            read(path)
        assert not isinstance(caught.value, DamagedError)
        assert "cannot be read now (Permission denied)" in str(caught.value)
        assert "rm " not in str(caught.value)


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    for kind, write in writers().items():
        write(tmp_path / f"first.{kind}")  # imports what it needs while it may
        with unprivileged(), pytest.raises(UserError) as caught:
            write(tmp_path / f"second.{kind}")
        assert "cannot be written (Permission denied)" in str(caught.value)
        assert "rm " not in str(caught.value)


def test_a_write_that_ends_in_an_error_of_the_disk_is_one_line(tmp_path: Path, monkeypatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"facts\.json: cannot be written \(Input/output error\)"):
        artifact.write_json(tmp_path / "facts.json", {})
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    artifact.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        artifact.write_json(path, {"a": float("nan")})
    assert artifact.read_json(path)["a"] == 1
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


def test_a_file_moves_whole_within_a_disk_and_to_another(tmp_path: Path) -> None:
    with small_disk(tmp_path / "other", "1m") as other:
        for target in (tmp_path / "target", other / "target"):
            source = tmp_path / "source"
            source.write_bytes(b"rows")
            artifact.move_whole(source, target)
            assert target.read_bytes() == b"rows"
            assert not source.exists()
        full, kept = tmp_path / "full", b"0" * 2**21
        full.write_bytes(kept)
        with pytest.raises(UserError, match="No space left on device"):
            artifact.move_whole(full, other / "full")
        assert full.read_bytes() == kept
        assert [path.name for path in other.iterdir()] == ["target"]
