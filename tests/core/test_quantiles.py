"""Quantiles of what is on disk: those of numpy and polars, to the last bit, in any number of parts."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moediff.core import quantiles as module
from moediff.core.quantiles import quantiles
from moediff.core.scratch import Rows

SHARES = [0.0, 0.05, 0.3, 0.5, 0.95, 1.0]
RANDOM = np.random.default_rng(0)
NUMBERS = {
    "one": np.array([0.7]),
    "two": np.array([-1.0, 3.0]),
    "equal": np.full(50, -2.5),
    "normal": RANDOM.normal(size=10_001),
    "near": 0.5 + 1e-15 * RANDOM.integers(0, 5, 997),
    "wide": RANDOM.choice([-1, 1], 400) * 10.0 ** RANDOM.integers(-300, 300, 400),
    "zeros": np.array([0.0, -0.0, 0.0, -0.0, -1e-320, 1e-320]),
    "ends": np.array([-math.inf, -1.0, 0.0, 1.0, 2.0, math.inf]),
}


def stored(numbers: np.ndarray, parts: int, folder: Path) -> list[Rows]:
    found = []
    for part in np.array_split(numbers, parts):
        found.append(Rows(np.float64, (), folder))
        found[-1].append(part)
    return found


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", NUMBERS)
def test_they_are_those_of_all_numbers_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, parts: int
) -> None:
    monkeypatch.setattr(module, "READ", 100)
    numbers = NUMBERS[name]
    found = quantiles(stored(numbers, parts, tmp_path), SHARES)
    theirs = [pl.Series(numbers).quantile(share, "linear") for share in SHARES]
    assert found == pytest.approx(theirs, rel=1e-15, abs=0, nan_ok=True)
    ranks = [share * (len(numbers) - 1) for share in SHARES]
    ordered = np.sort(numbers)
    for share, rank in zip(found, ranks, strict=True):
        if rank == int(rank):
            assert share == ordered[int(rank)]


def test_what_is_no_number_stands_last_whatever_its_sign(tmp_path: Path) -> None:
    nan = np.array([math.nan, -math.nan])
    numbers = np.concatenate([[1.0, 2.0, 3.0], nan, [4.0]])
    assert np.signbit(nan).tolist() == [False, True]
    found = quantiles(stored(numbers, 2, tmp_path), [0.0, 0.2, 0.6, 0.8, 1.0])
    assert found[:3] == [1.0, 2.0, 4.0]
    assert np.isnan(found[3:]).all()


def test_no_numbers_have_no_quantiles(tmp_path: Path) -> None:
    assert np.isnan(quantiles(stored(np.empty(0), 2, tmp_path), [0.5, 0.9])).all()
