"""Selection is exact and sparse products equal the dense ones, gradients too."""

from __future__ import annotations

import pytest
import torch

from moediff.dictionaries import sums_torch
from moediff.dictionaries.products import selected_values, sparse_decode
from moediff.dictionaries.scores import (
    NUMPY_THREADS,
    DenseScores,
    InferenceScores,
    Linear,
    ScreenedScores,
    kth,
)
from moediff.dictionaries.selection import batch_top, row_top


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def given(scores: torch.Tensor) -> DenseScores:
    """Scores as they stand: the rows themselves through an identity."""
    width = scores.shape[1]
    whole = slice(0, width)
    return DenseScores(scores, [Linear(torch.eye(width), torch.zeros(width), None, whole, whole)])


def pairs(entries: tuple[torch.Tensor, torch.Tensor]) -> list[tuple[int, int]]:
    return list(zip(*(part.tolist() for part in entries), strict=True))


def by_sorting(scores: torch.Tensor, count: int) -> list[tuple[int, int]]:
    """The plain form: sort all entries by score, then place."""
    width = scores.shape[1]
    flat = scores.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda place: (-flat[place], place))[:count]
    return sorted((place // width, place % width) for place in order if flat[place] > 0)


@pytest.mark.parametrize("threads", [1, NUMPY_THREADS + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_kth_largest_of_a_row_is_that_of_sorting(dtype: torch.dtype, threads: int) -> None:
    torch.set_num_threads(threads)
    values = torch.randn(30, 50, generator=random(0)).mul(4).round().to(dtype)  # with many ties
    values[3, :40] = -torch.inf
    values[4, 7] = torch.inf
    for k in (1, 7, 50):
        wanted = values.sort(dim=1, descending=True).values[:, k - 1 : k]
        assert torch.equal(kth(values, k), wanted)


# --- selection over a batch ---


@pytest.mark.parametrize("guess", [0.0, 0.5, 1.2, 50.0])
@pytest.mark.parametrize("count", [1, 37, 300, 10_000])
def test_batch_top_equals_a_full_sort_whatever_the_guess(count: int, guess: float) -> None:
    scores = torch.randn(40, 60, generator=random(count))
    entries, found = batch_top(given(scores), count, guess)
    assert pairs(entries) == by_sorting(scores, count)
    assert torch.equal(found, scores[entries])


@pytest.mark.parametrize("guess", [0.0, 0.9])
def test_ties_are_broken_by_row_then_feature(guess: float) -> None:
    scores = torch.tensor([[1.0, 2.0, 1.0], [1.0, 0.0, 1.0]])
    entries, _ = batch_top(given(scores), 3, guess)
    assert pairs(entries) == [(0, 0), (0, 1), (0, 2)]
    many = torch.randint(0, 4, (30, 50), generator=random(0)).float()
    for count in (1, 100, 400, 900):
        assert pairs(batch_top(given(many), count, guess)[0]) == by_sorting(many, count)


def test_nothing_positive_selects_nothing() -> None:
    for scores in (torch.zeros(3, 40), -torch.ones(3, 40)):
        assert pairs(batch_top(given(scores), 5)[0]) == []
        assert pairs(row_top(given(scores), 2)[0]) == []
        assert pairs(given(scores).at_least(-3.0)[0]) == []


def test_a_floor_takes_the_score_that_equals_it_and_no_zero() -> None:
    scores = given(torch.tensor([[0.0, 1.0, 0.5]]))
    assert pairs(scores.at_least(0.5)[0]) == [(0, 1), (0, 2)]
    assert pairs(scores.at_least(0.0)[0]) == [(0, 1), (0, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("floor", [-9.0, 0.5, 1.9, 3.2, "of each row", "of each feature"])
def test_entries_above_a_floor_are_those_of_a_comparison(
    floor, dtype: torch.dtype, monkeypatch
) -> None:
    """Block by block of rows, the last one shorter."""
    monkeypatch.setattr(sums_torch, "BLOCK", 300)
    for width in (40, 41, 800):
        values = torch.randn(30, width, generator=random(width)).to(dtype)
        values[4] = -9.0
        least = {
            "of each row": torch.linspace(1, 4, 30)[:, None].to(dtype),
            "of each feature": torch.linspace(1, 4, width).to(dtype),
        }.get(floor, floor)
        wanted = (values >= least).nonzero(as_tuple=True)
        for one, other in zip(sums_torch.above(values, least), wanted, strict=True):
            assert torch.equal(one, other)


def test_a_batch_without_rows_has_no_entries() -> None:
    assert pairs(sums_torch.above(torch.empty(0, 5), 0.5)) == []


# --- selection in each row ---


@pytest.mark.parametrize("k", [1, 3, 8, 200])
@pytest.mark.parametrize("width", [20, 160, 333])
@pytest.mark.parametrize("ties", [False, True])
def test_row_top_equals_a_sort_of_each_row(k: int, width: int, ties: bool) -> None:
    scores = torch.randn(25, width, generator=random(k))
    scores[3] = -1.0
    scores[4, 5:] = -1.0
    scores = (2 * scores).round() if ties else scores
    entries, found = row_top(given(scores), k)
    wanted = [
        (row, feature) for row in range(25) for _, feature in by_sorting(scores[row : row + 1], k)
    ]
    assert pairs(entries) == wanted
    assert torch.equal(found, scores[entries])


# --- screening in bfloat16 ---


def parts_of(seed: int, rows: int = 64) -> tuple[torch.Tensor, list[Linear]]:
    """Two stretches of features, over other columns, with weights and biases of many sizes."""
    source = random(seed)
    x = torch.randn(rows, 48, generator=source) * torch.rand(rows, 1, generator=source) ** 4
    one = torch.randn(300, 48, generator=source) * torch.rand(300, 1, generator=source) ** 3
    two = torch.randn(90, 16, generator=source)
    bias = torch.randn(390, generator=source) * 0.3
    weight = torch.rand(390, generator=source) ** 2
    return x, [
        Linear(one, bias[:300], weight[:300], slice(0, 48), slice(0, 300)),
        Linear(two, bias[300:], weight[300:], slice(32, 48), slice(300, 390)),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_screened_scores_select_what_dense_scores_do(seed: int) -> None:
    x, parts = parts_of(seed)
    dense, screened = DenseScores(x, parts), ScreenedScores(x, parts)
    by_row, by_feature = torch.rand(64, 1, generator=random(seed)), torch.rand(390)
    for floor in (0.0, 0.01, 0.5, by_row, by_feature):
        wanted, values = dense.at_least(floor)
        found, exact = screened.at_least(floor)
        # Only a score within rounding of the floor may fall on its other side.
        extra = set(pairs(wanted)) ^ set(pairs(found))
        floors = torch.as_tensor(floor).expand(dense.shape)
        assert all(abs(float(dense.all[r, f] - floors[r, f])) < 1e-5 for r, f in extra)
        if not extra:
            torch.testing.assert_close(exact, values, rtol=1e-4, atol=1e-6)
    assert pairs(batch_top(screened, 640, 0.4)[0]) == pairs(batch_top(dense, 640)[0])
    assert pairs(row_top(screened, 7)[0]) == pairs(row_top(dense, 7)[0])
    assert screened.violations == 0


def test_the_margin_covers_the_worst_rounding() -> None:
    """Factors that all round down by half a unit: bfloat16 sees less than the true product."""
    down = 1 + 2**-8 - 2**-16  # just below the middle of two neighbours: rounds to 1
    x = torch.full((4, 64), down)
    whole = slice(0, 8)
    part = Linear(torch.full((8, 64), down), torch.full((8,), down), None, slice(0, 64), whole)
    screened = ScreenedScores(x, [part])
    exact = 64 * down**2 + down
    _, found = screened.at_least(exact * (1 - 1e-6))
    assert len(found) == 32
    assert screened.violations == 0
    assert float(found.min()) == pytest.approx(exact)


def test_screening_is_exact_at_the_width_of_a_large_panel() -> None:
    source = random(0)
    x = torch.rand(8, 12_288, generator=source)  # all of one sign: sums of rounding do not cancel
    whole = slice(0, 40)
    table = torch.rand(40, 12_288, generator=source)
    parts = [Linear(table, torch.zeros(40), None, slice(0, 12_288), whole)]
    dense, screened = DenseScores(x, parts), ScreenedScores(x, parts)
    assert pairs(batch_top(screened, 60)[0]) == pairs(batch_top(dense, 60)[0])
    assert screened.violations == 0


@pytest.mark.parametrize("cost", [0, 10**9], ids=["each entry", "all at once"])
@pytest.mark.parametrize("seed", range(4))
def test_scores_at_inference_are_the_dense_ones_in_float64(
    seed: int, cost: int, monkeypatch
) -> None:
    monkeypatch.setattr("moediff.dictionaries.entries.ENTRY_COST", cost)
    x, parts = parts_of(seed)
    x, parts = x.double(), [
        Linear(p.encoder.double(), p.bias.double(), p.weight.double(), p.columns, p.features)
        for p in parts
    ]  # fmt: skip
    dense, screened = DenseScores(x, parts), InferenceScores(x, parts)
    for floor in (
        0.0,
        0.01,
        0.5,
        torch.rand(64, 1),
        torch.rand(390),
        torch.full((390,), torch.inf),
    ):
        wanted, values = dense.at_least(floor)
        found, exact = screened.at_least(floor)
        assert pairs(found) == pairs(wanted)
        torch.testing.assert_close(exact, values, rtol=1e-12, atol=1e-14)
    assert screened.violations == 0


def test_scores_at_inference_are_right_even_where_a_bound_is_missed(monkeypatch) -> None:
    monkeypatch.setattr(InferenceScores, "MARGIN", -0.01)
    x, parts = parts_of(0)
    screened = InferenceScores(x, parts)
    found, _ = screened.at_least(0.1)
    assert screened.violations > 0
    assert pairs(found) == pairs(DenseScores(x, parts).at_least(0.1)[0])


def test_screening_rescores_few() -> None:
    x, parts = parts_of(0)
    screened = ScreenedScores(x, parts)
    floor = float(DenseScores(x, parts).all.flatten().topk(640).values.min())
    assert int((screened.bounds >= floor * (1 - screened.ROUNDING)).sum()) < 1.2 * 640


# --- products and their gradients ---

CASES = {
    "plain": lambda s: s,
    "rows without entries": lambda s: s * (torch.arange(len(s)) % 3 > 0)[:, None],
    "all negative": lambda s: -s.abs() - 1,
    "one row has all": lambda s: s * (torch.arange(len(s)) == 2)[:, None] + 1e-3 * s,
    "ties": lambda s: s.round(),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_forward_and_every_gradient_equal_dense_float64(case: str, seed: int) -> None:
    source = random(seed)
    size, d_in, d_out, features = (
        int(torch.randint(low, high, (), generator=source))
        for low, high in ((5, 70), (2, 40), (1, 30), (3, 90))
    )
    inputs = torch.randn(size, d_in, generator=source)
    target = torch.randn(size, d_out, generator=source)
    start = [
        torch.randn(*shape, generator=source)
        for shape in ((features, d_in), (features,), (features, d_out))
    ]
    ranked = CASES[case](torch.randn(size, features, generator=source))
    entries, _ = batch_top(given(ranked), 3 * size)

    dense = [part.double().requires_grad_() for part in start]
    mask = torch.zeros(size, features, dtype=torch.float64)
    mask[entries] = 1
    wanted = ((inputs.double() @ dense[0].T + dense[1]) * mask) @ dense[2]
    (wanted - target).square().sum().backward()

    sparse = [part.clone().requires_grad_() for part in start]
    with torch.no_grad():
        known = (inputs @ sparse[0].T + sparse[1])[entries]
    values = selected_values(known, inputs, sparse[0], sparse[1], entries)
    found = sparse_decode(values, sparse[2], entries, size)
    (found - target).square().sum().backward()

    assert_near(found, wanted)
    for one, other in zip(sparse, dense, strict=True):
        assert_near(one.grad, other.grad)


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Within 1e-5 of the largest: float32 sums of cancelling terms know no smaller unit."""
    scale = float(wanted.detach().abs().max()) or 1.0
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5 * scale)


def test_a_row_without_entries_decodes_to_zero() -> None:
    entries = (torch.tensor([1, 1, 3]), torch.tensor([0, 2, 1]))
    found = sparse_decode(torch.ones(3), torch.eye(3), entries, 5)
    assert found.tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]]
