"""Data on disk while a job needs it: what was written is read, and no file is left or seen."""

import gc
from pathlib import Path

import numpy as np
import pytest

from disks import small_disk
from moediff.core.errors import UserError
from moediff.core.scratch import Records, Rows


def test_records_are_read_as_written_in_any_order(tmp_path: Path) -> None:
    random, records = np.random.default_rng(0), Records(tmp_path)
    wanted = [random.bytes(size) for size in (0, 1, 5000, 3_000_000, 0, 17)]
    for record in wanted:
        half = len(record) // 2
        records.append(record[:half], np.frombuffer(record[half:], np.uint8))
        assert records[len(records) - 1] == record  # while it is still written to
    assert len(records) == len(wanted)
    assert [records[number] for number in (5, 0, 3, 1)] == [wanted[n] for n in (5, 0, 3, 1)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("dtype", "shape"), [(np.uint16, (5,)), (bool, (3,)), (np.float64, ())])
def test_rows_are_indexed_as_an_array_is(tmp_path: Path, dtype: type, shape: tuple) -> None:
    random, rows = np.random.default_rng(0), Rows(dtype, shape, tmp_path)
    parts = [random.integers(0, 2, (count, *shape)).astype(dtype) for count in (7, 0, 1, 30)]
    for part in parts:
        rows.append(part)
    whole = np.concatenate(parts)
    assert (len(rows), rows.shape, rows.size) == (38, whole.shape, whole.size)
    some = random.integers(-38, 38, 20)
    for wanted in (
        slice(None),
        slice(3, 9),
        slice(30, 99),
        slice(9, 3),
        slice(None, None, -2),
        some,
    ):
        assert rows[wanted].dtype == whole.dtype
        assert np.array_equal(rows[wanted], whole[wanted])
        part = slice(4, 20)
        if isinstance(wanted, slice):
            assert np.array_equal(rows.part(part)[wanted], whole[part][wanted])
    assert np.array_equal(
        rows.part(slice(4, 20)).part(slice(3, 9))[some % 6], whole[7:13][some % 6]
    )
    assert np.array_equal(np.asarray(rows), whole)
    for beyond in (np.array([38]), np.array([-39])):
        with pytest.raises(IndexError):
            rows[beyond]
    with pytest.raises(ValueError, match="rows of shape"):
        rows.append(np.zeros((2, 9)))
    assert list(tmp_path.iterdir()) == []


def fill(folder: Path) -> None:
    rows = Rows(np.uint8, (1000,), folder)
    for _ in range(4):
        rows.append(np.ones((1000, 1000), np.uint8))


def test_a_full_disk_is_one_line_that_names_the_folder(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "1m") as folder:
        with pytest.raises(UserError, match=f"{folder}: cannot be written .No space left"):
            fill(folder)
        gc.collect()  # the error knows the file, without which the disk goes
