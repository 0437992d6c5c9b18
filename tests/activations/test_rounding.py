"""What float16 loses of rows that share one scale: counted, and refused like an overflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import made_facts
from moediff.activations.rounding import Rounding
from moediff.activations.shard_writer import ShardWriter
from moediff.activations.shards import TYPES, Shard, Stored
from moediff.core.errors import UserError

ROWS = torch.from_numpy(np.random.default_rng(0).normal(size=(3000, 32)).astype(np.float32))


def counted(rows: torch.Tensor, exponent: int, parts: int = 1) -> Rounding:
    found = Rounding()
    for part in rows.chunk(parts):
        found.add(part, (part * 2.0**exponent).to(torch.float16))
    return found


def store(path: Path, rows: torch.Tensor, exponent: int, dtype: str = "float16") -> Shard:
    row = np.arange(len(rows))
    columns = {name: row.astype(TYPES[name]) for name in TYPES if name != "domain"}
    columns["domain"] = np.zeros(len(rows), np.uint8)
    points = {"rows": Stored("rows", rows.shape[1], exponent)}
    writer = ShardWriter(path, columns, points, dtype, 256, "acts/a.safetensors")
    for part in rows.split(1000):
        writer.add({"rows": part})
    writer.write(made_facts("m"))
    return Shard(path)


@pytest.mark.parametrize("rows", [1, 7])
def test_values_below_two_to_minus_17_and_not_zero_are_small(rows: int) -> None:
    line = torch.tensor([[1.0, 2.0**-17, 2.0**-17 * 0.99, -(2.0**-18), 1e-30, 0.0, -0.0, 5.0]])
    found = counted(line.repeat(rows, 1), 0)
    assert (found.values, found.small) == (6 * rows, 3 * rows)
    assert counted(line.repeat(rows, 1), 1).small == 1 * rows  # twice as large


def test_the_share_of_small_normal_values_is_what_theory_says() -> None:
    # Of a normal value of standard deviation s the chance to be below t is erf(t / s / sqrt(2)).
    for exponent in (0, -12, -14, -16):
        found = counted(ROWS, exponent, parts=5)
        wanted = float(torch.erf(torch.tensor(2.0 ** (-17 - exponent) / 2**0.5)))
        assert found.small / found.values == pytest.approx(wanted, rel=0.05, abs=2e-5)
        assert (found.fault() is None) == (wanted < 0.1)


def test_rows_that_become_zeros_are_counted_and_rows_of_zeros_are_not() -> None:
    rows = ROWS.clone()
    rows[5] = 0
    rows[[17, 2000]] *= 1e-12
    found = counted(rows, 0, parts=3)
    assert (found.lost, found.first_lost) == (2, 17)
    assert "2 of 3000 rows (first row 17) become zeros" in found.fault()


def test_float32_loses_nothing() -> None:
    found = Rounding()
    found.add(ROWS * 1e-30, ROWS * 1e-30)
    assert found.fault() is None


@pytest.mark.parametrize(("outlier", "exponent"), [(3e38, -120), (1e8, -18), (-1e8, -18)])
def test_an_outlier_that_takes_the_digits_of_all_other_rows_is_named(
    tmp_path: Path, outlier: float, exponent: int
) -> None:
    rows = ROWS.clone()
    rows[2345, 3] = outlier
    with pytest.raises(UserError) as caught:
        store(tmp_path / "a.zarr.zip", rows, exponent)
    message = str(caught.value)
    assert message.startswith("acts/a.safetensors: at rows ")
    assert f"{outlier:.3g} of row 2345, document 000000000000929" in message
    assert "set activations.dtype to float32" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(
        store(tmp_path / "a.zarr.zip", rows, 0, "float32").rows(0, 3000).numpy().max(), rows.max()
    )


def test_a_column_above_all_others_is_named_too(tmp_path: Path) -> None:
    rows = ROWS.clone()
    rows[:, 4] = 3e9
    with pytest.raises(UserError, match="of 97% of the values"):
        store(tmp_path / "a.zarr.zip", rows, -29)


def test_a_row_of_a_thousand_times_the_rest_is_stored_as_well_as_float16_can(
    tmp_path: Path,
) -> None:
    rows = ROWS.clone()
    rows[7] *= 1000
    shard = store(tmp_path / "a.zarr.zip", rows, -10)
    wanted = rows[shard.order()]
    error = (shard.rows(0, 3000) - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert float(error.max()) < 2**-11


def test_an_overflow_is_named_by_row_and_value(tmp_path: Path) -> None:
    rows = ROWS.clone()
    rows[1500, 3] = -1e6
    with pytest.raises(
        UserError, match=r"activation -1e\+06 of row 1500, document 0+5dc at rows ov"
    ):
        store(tmp_path / "a.zarr.zip", rows, 0)
