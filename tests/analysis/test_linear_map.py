"""Ridge regression from matrices of products: known answers, and the same as from the rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moediff.analysis.linear_map import ALPHAS, Gram, gram, halves, ridge_r2
from moediff.core.errors import UserError

A, B = slice(0, 6), slice(6, 11)


def made(rows: np.ndarray) -> Gram:
    """The Gram of rows [row, D] that are in memory."""
    mean = rows.mean(0)
    moved = rows - mean
    return Gram(len(rows), torch.from_numpy(mean), torch.from_numpy(moved.T @ moved))


def split(rows: np.ndarray) -> tuple[Gram, Gram, Gram]:
    """Two fit parts and validation, a third each."""
    first, second, third = (made(part) for part in np.array_split(rows, 3))
    return first, second, third


def world(count: int, noise: float, seed: int = 0) -> np.ndarray:
    """Rows [row, 11]: five columns are a linear map of six others, of variance 1, and noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 6)) * [5, 3, 1, 1, 0.5, 0.1] + 40
    weights = random.normal(size=(6, 5))
    y = (x - 40) @ weights
    y *= (5 / ((weights**2).T @ np.array([25, 9, 1, 1, 0.25, 0.01])).sum()) ** 0.5
    return np.concatenate([x, y + noise * random.normal(size=y.shape) - 7], axis=1)


def test_gram_is_that_of_the_rows_from_any_batch_and_in_parts(aligned_rows) -> None:
    rows = world(3000, 0.5).astype(np.float32)
    data = aligned_rows([rows[:, A], rows[:, B]], 1999, 300, document_rows=700)
    wanted = made(rows.astype(np.float64))
    one, other = halves(data)
    parts = gram(data, 64, one), gram(data, 999, other)
    assert [part.count for part in parts] == [1600, 1400]  # documents 0, 2 and 4, and 1 and 3
    for found in (gram(data, 256), gram(data, 3000), parts[0].merged(parts[1])):
        assert found.count == 3000
        torch.testing.assert_close(found.mean, wanted.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.products, wanted.products, rtol=1e-10, atol=1e-8)


def test_products_about_another_mean_are_those_of_the_rows() -> None:
    rows = world(500, 0.5)
    other = torch.arange(11.0, dtype=torch.float64)
    moved = rows - other.numpy()
    found = made(rows).about(other, A, B)
    np.testing.assert_allclose(found.numpy(), moved[:, A].T @ moved[:, B], rtol=1e-10)


def dense(fit: np.ndarray, test: np.ndarray, alpha: float) -> float:
    """Squared error on `test` of a ridge fit by least squares on rows, the penalty as rows more."""
    mean = fit.mean(0)
    unit = ((fit[:, A] - mean[A]) ** 2).sum(1).mean() ** 0.5
    x, y = (fit[:, A] - mean[A]) / unit, fit[:, B] - mean[B]
    x = np.concatenate([x, np.eye(6) * (alpha * len(fit)) ** 0.5])
    weights = np.linalg.lstsq(x, np.concatenate([y, np.zeros((6, 5))]), rcond=None)[0]
    guess = (test[:, A] - mean[A]) / unit @ weights + mean[B]
    return float(((test[:, B] - guess) ** 2).sum())


@pytest.mark.parametrize("noise", [0.3, 30.0])
def test_equals_least_squares_on_rows_and_takes_the_best_alpha(noise: float) -> None:
    first, second, third = np.array_split(world(90, noise), 3)
    second, third = second + 0.5, third - 1  # parts of other means
    r2, alpha = ridge_r2(made(first), made(second), made(third), A, B)
    tried = [dense(first, second, a) + dense(second, first, a) for a in ALPHAS]
    assert alpha == ALPHAS[int(np.argmin(tried))]
    total = ((third[:, B] - third[:, B].mean(0)) ** 2).sum()
    wanted = 1 - dense(np.concatenate([first, second]), third, alpha) / total
    assert r2 == pytest.approx(wanted, abs=1e-9)


def test_a_linear_map_is_read_off_whole_and_back_only_as_far_as_it_reaches() -> None:
    r2, alpha = ridge_r2(*split(world(3000, 0.0)), A, B)
    assert r2 == pytest.approx(1, abs=1e-8)
    assert alpha == ALPHAS[0]
    back, _ = ridge_r2(*split(world(3000, 0.0)), B, A)  # six columns from five lack a dimension
    assert 0.9 < back < 1 - 1e-6


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_known_noise_gives_the_known_r2(noise: float) -> None:
    r2, _ = ridge_r2(*split(world(60_000, noise)), A, B)
    assert r2 == pytest.approx(1 / (1 + noise**2), abs=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_independent_rows_give_nothing(seed: int) -> None:
    """With 40 fit rows of 6 columns, least squares alone would fall to about -0.18."""
    random = np.random.default_rng(seed)
    few = random.normal(size=(1040, 11))
    parts = made(few[:20]), made(few[20:40]), made(few[40:])
    r2, _ = ridge_r2(*parts, A, B)
    assert -0.07 < r2 < 0.01
    many, _ = ridge_r2(*split(random.normal(size=(60_000, 11))), A, B)
    assert abs(many) < 1e-3


def test_scale_and_mean_of_either_source_change_nothing() -> None:
    rows = world(300, 1.0)
    moved = rows.copy()
    moved[:, A] = moved[:, A] * 50 + 3
    moved[:, B] = moved[:, B] * 0.01 - 2
    wanted, alpha = ridge_r2(*split(rows), A, B)
    found, other = ridge_r2(*split(moved), A, B)
    assert found == pytest.approx(wanted, abs=1e-9)
    assert other == alpha


def test_what_cannot_be_regressed_is_refused(aligned_rows) -> None:
    fit, other, seen = split(world(300, 1.0))
    rows = world(300, 1.0)
    constant = rows.copy()
    constant[:, B] = 1
    with pytest.raises(UserError, match="validation rows never vary"):
        ridge_r2(fit, other, made(constant), A, B)
    constant = rows.copy()
    constant[:, A] = 1
    with pytest.raises(UserError, match="fit rows never vary"):
        ridge_r2(made(constant), other, seen, A, B)
    with pytest.raises(UserError, match="different widths"):
        ridge_r2(fit, other, made(rows[:, :9]), A, B)
    data = aligned_rows([rows[:50, A], rows[:50, B]])  # one document
    with pytest.raises(UserError, match="parts of 50 and 0 rows"):
        ridge_r2(*(gram(data, 64, half) for half in halves(data)), seen, A, B)
