"""Groups of the rows of a split: counted, and in halves of which none shares a group with the other."""

from __future__ import annotations

import numpy as np
import pytest

from moediff.activations.groups import Documents, Groups, documents


def table(domain: list[int], group: list[int], rows: list[int]) -> Documents:
    """As `documents` gives it, one document a group."""
    order = np.lexsort([group, domain])
    columns = (domain, group, range(len(group)), rows)
    return Documents(*(np.array(column)[order] for column in columns))


def test_documents_are_counted_over_all_parts() -> None:
    parts = [
        (np.array([0, 0, 1, 1]), np.array([7, 7, 3, 3]), np.array([1, 2, 5, 5])),
        (np.array([1, 0, 1]), np.array([3, 7, 2]), np.array([5, 1, 9])),
    ]
    found = documents(iter(parts))
    assert [part.tolist() for part in found] == [
        [0, 0, 1, 1],
        [7, 7, 2, 3],
        [1, 2, 9, 5],
        [2, 1, 1, 3],
    ]
    assert [part.tolist() for part in found.of(1)] == [[1, 1], [2, 3], [9, 5], [1, 3]]


@pytest.mark.parametrize("seed", range(4))
def test_halves_are_of_whole_groups_and_about_half_of_every_domain(seed: int) -> None:
    random = np.random.default_rng(seed)
    domain = np.repeat(np.arange(3), [5, 40, 200])
    group = random.permutation(10**6)[: len(domain)]
    rows = random.integers(1, 100, len(domain))
    groups = Groups(table(domain.tolist(), group.tolist(), rows.tolist()))
    half = groups.half(domain, group)
    for own in range(3):
        sums = np.bincount(half[domain == own], rows[domain == own], 2)
        assert sums.min() > 0
        assert abs(sums[0] - sums[1]) <= rows[domain == own].max()
    # Which half does not follow from how large a group is, or it would not be drawn.
    assert abs(np.corrcoef(half[domain == 2], rows[domain == 2])[0, 1]) < 0.25


def test_of_two_groups_neither_half_is_empty_and_a_group_of_two_domains_is_two() -> None:
    groups = Groups(table([0, 0, 1, 1], [2, 4, 4, 6], [5, 9, 1, 1]))  # all ids even
    domain, group = np.array([0, 0, 1, 1, 1]), np.array([2, 4, 4, 6, 4])
    assert groups.half(domain, group).tolist() == [0, 1, 0, 1, 0]
    assert groups.place(domain, group).tolist() == [0, 1, 2, 3, 2]
    assert groups.units.counts() == {"all": 4, 0: 2, 1: 2}
    alone = Groups(table([0], [2], [5]))
    assert alone.half(np.array([0, 0]), np.array([2, 2])).tolist() == [0, 0]


def test_rows_of_one_group_are_in_one_half(aligned_rows) -> None:
    data = aligned_rows(
        [np.random.default_rng(0).normal(size=(3000, 2))], 999, 128, group_documents=4
    )
    domain, group, half = (data.column(name) for name in ("domain", "group", "half"))
    sides = {
        (d, g): set(half[(domain == d) & (group == g)]) for d, g in zip(domain, group, strict=True)
    }
    assert len(sides) == 30
    assert all(len(side) == 1 for side in sides.values())
    assert 1300 < half.sum() < 1700
    inside = np.concatenate([part.numpy() for part in data.column_in_order("half", 77)])
    np.testing.assert_array_equal(inside, half)
