"""Selection is exact and sparse products equal the dense ones, gradients too."""

import pytest
import torch

from moediff.sparse import entries_above, selected_values, sparse_decode, top_entries


def by_sorting(scores: torch.Tensor, count: int) -> set[tuple[int, int]]:
    """The plain form: sort all entries by score, then place."""
    width = scores.shape[1]
    flat = scores.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda place: (-flat[place], place))[:count]
    return {(place // width, place % width) for place in order if flat[place] > 0}


@pytest.mark.parametrize("guess", [0.0, 0.5, 1.2, 50.0])
@pytest.mark.parametrize("count", [1, 37, 300, 10_000])
def test_top_entries_equal_a_full_sort_whatever_the_guess(count: int, guess: float) -> None:
    scores = torch.randn(40, 60, generator=torch.Generator().manual_seed(count)).relu()
    (rows, features), smallest = top_entries(scores, count, guess)
    found = set(zip(rows.tolist(), features.tolist(), strict=True))
    assert found == by_sorting(scores, count)
    assert smallest == min(float(scores[r, f]) for r, f in found)


def test_ties_are_broken_by_row_then_feature() -> None:
    scores = torch.tensor([[1.0, 2.0, 1.0], [1.0, 0.0, 1.0]])
    (rows, features), _ = top_entries(scores, 3)
    assert rows.tolist() == [0, 0, 0]
    assert features.tolist() == [0, 1, 2]


def test_nothing_positive_selects_nothing() -> None:
    (rows, _), smallest = top_entries(torch.zeros(3, 4), 5)
    assert len(rows) == 0
    assert smallest == 0.0


def test_threshold_takes_the_score_that_equals_it_and_no_zero() -> None:
    _, features = entries_above(torch.tensor([[0.0, 1.0, 0.5]]), 0.5)
    assert features.tolist() == [1, 2]
    _, features = entries_above(torch.tensor([[0.0, 1.0]]), 0.0)
    assert features.tolist() == [1]


def test_forward_and_every_gradient_equal_the_dense_form() -> None:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 12, generator=random, dtype=torch.float64)
    target = torch.randn(50, 9, generator=random, dtype=torch.float64)
    start = [
        torch.randn(*shape, generator=random, dtype=torch.float64)
        for shape in ((30, 12), (30,), (30, 9))
    ]
    dense = [part.clone().requires_grad_() for part in start]
    sparse = [part.clone().requires_grad_() for part in start]

    before = inputs @ dense[0].T + dense[1]
    entries, _ = top_entries(before.detach().relu(), 200)
    mask = torch.zeros_like(before)
    mask[entries] = 1
    wanted = (before * mask) @ dense[2]
    (wanted - target).square().sum().backward()

    with torch.no_grad():
        plain = inputs @ sparse[0].T + sparse[1]
    values = selected_values(plain, inputs, sparse[0], sparse[1], entries)
    found = sparse_decode(values, sparse[2], entries, 50)
    (found - target).square().sum().backward()

    torch.testing.assert_close(found, wanted)
    for one, other in zip(sparse, dense, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_row_without_entries_decodes_to_zero() -> None:
    entries = (torch.tensor([1, 1, 3]), torch.tensor([0, 2, 1]))
    found = sparse_decode(torch.ones(3), torch.eye(3), entries, 5)
    assert found.tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]]
