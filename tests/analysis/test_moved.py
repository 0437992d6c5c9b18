"""Distances of rows: known by hand, for any batch, and none where the widths differ."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from moediff.analysis.moved import COLUMNS, distances, moved


def whole(data, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance and cosine of all rows."""
    distance, cosine = zip(*distances(data, batch), strict=True)
    return np.concatenate(distance), np.concatenate(cosine)


def test_equal_rows_are_0_opposite_ones_2_and_unrelated_ones_the_root_of_2_apart(
    aligned_rows,
) -> None:
    a = np.array([[3, 4, 0], [3, 4, 0], [1, 0, 0], [2, 0, 0]], np.float32)
    b = np.array([[3, 4, 0], [-3, -4, 0], [0, 1, 0], [1, 0, 0]], np.float32)
    for batch in (1, 3, 4):
        distance, cosine = whole(aligned_rows([a, b], 4, 2), batch)
        # Shards hold rows in an order of their own.
        assert sorted(distance) == pytest.approx([0, 2 / 3, 2**0.5, 2])
        assert cosine[np.argsort(distance)] == pytest.approx([1, 1, 0, -1])


def test_the_table_is_over_all_rows_and_by_domain_those_that_moved_most_first(
    aligned_rows,
) -> None:
    random = np.random.default_rng(0)
    a = random.normal(size=(3000, 8)).astype(np.float32)
    b = a + 0.1 * random.normal(size=a.shape).astype(np.float32)
    data = aligned_rows([a, b], 1999, 300)
    table = moved(data, 256)
    assert dict(table.schema) == COLUMNS
    distance, cosine = whole(data, 256)
    row = table.row(0, named=True)
    assert (row["domain"], row["rows"]) == ("all", 3000)
    assert row["median"] == pytest.approx(np.median(distance))
    assert [row["q05"], row["q95"]] == pytest.approx(np.quantile(distance, [0.05, 0.95]))
    assert row["cosine"] == pytest.approx(np.median(cosine))
    each = table.slice(1)
    assert set(each["domain"]) == set(np.array(data.domains)[np.unique(data.column("domain"))])
    assert each["rows"].sum() == 3000
    assert each["median"].is_sorted(descending=True)
    domain = data.column("domain")
    for name, median in each.select("domain", "median").iter_rows():
        assert median == pytest.approx(np.median(distance[domain == data.domains.index(name)]))


def test_rows_of_different_widths_have_no_distance(aligned_rows) -> None:
    data = aligned_rows([np.ones((4, 3), np.float32), np.ones((4, 5), np.float32)], 4, 2)
    assert moved(data, 2).equals(pl.DataFrame(schema=COLUMNS))
