"""Classes under each convention, domains and scaling of features: by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from conftest import RECIPE
from moediff.analysis.classes import classify, conventions, norm_ratio, relative_norm
from moediff.analysis.features import feature_table, with_scaling
from moediff.analysis.measured import Measured
from moediff.dictionaries.blocks import Shape
from moediff.dictionaries.dictionary import Dictionary


def test_relative_norm_and_classes_by_hand() -> None:
    norms = np.array([[1, 0], [0, 1], [1, 1], [1, 0.5], [0.5, 1], [0, 0]], float)
    found = relative_norm(norms)
    np.testing.assert_allclose(found[:5], [0, 1, 0.5, 0.25, 0.75])
    assert np.isnan(found[5])
    blocks = ["free"] * 4 + ["tied", "free"]
    fired = np.array([5, 5, 5, 5, 5, 0])
    names = classify(blocks, fired, found, 1, (0.3, 0.7))
    assert names == ["A-only", "B-only", "common", "A-only", "tied", "dead"]
    assert classify(blocks, fired, None, 6, (0.3, 0.7)) == ["dead"] * 6


def counted(fired_in: list, domain_rows: list) -> Measured:
    """What was measured, from firings [half, feature, domain] alone."""
    table, rows = np.array(fired_in), np.array(domain_rows)
    fired = table.sum((0, 2))
    return Measured({}, {}, fired, fired * 2.0, table, rows, int(rows.sum()))


def table_of(norms: list, measured: Measured) -> pl.DataFrame:
    """Table of a dictionary whose first feature is tied, with these decoder norms of A and B."""
    shape = Shape.of(RECIPE | {"features": len(norms), "tied": 1}, [3, 3])
    dictionary = Dictionary(shape).requires_grad_(False)
    rows = torch.tensor(norms[1:], dtype=torch.float32)
    dictionary.blocks["free"].weight.zero_()
    dictionary.blocks["free"].weight[:, [0, 3]] = rows
    return feature_table(dictionary, measured, ["a", "b"], ["x", "y"], 5, (0.3, 0.7))


def test_classes_under_each_convention_by_hand() -> None:
    norms = [[1, 1], [1, 0], [1, 0.3], [1, 0.5], [0.5, 1], [0.3, 1], [0, 1], [1, 0]]
    np.testing.assert_allclose(norm_ratio(np.array(norms, float))[[2, 3]], [0.3 / 1.3, 1 / 3])
    assert np.isnan(norm_ratio(np.zeros((1, 2))))
    measured = counted([[[3, 3]] * 7 + [[2, 2]], [[3, 3]] * 7 + [[0, 0]]], [[9, 9], [9, 9]])
    table = table_of(norms, measured)
    wanted = {
        "class": "tied A-only A-only A-only B-only B-only B-only dead",
        "class_strict": "tied A-only common common common common B-only dead",
        "class_ratio": "tied A-only A-only common common B-only B-only dead",
    }
    for column, names in wanted.items():
        assert table[column].to_list() == names.split(), column
    rows = {(row["convention"], row["class"]): row["count"] for row in conventions(table)}
    assert len(rows) == 3 * 5
    assert [rows[name, "A-only"] for name in ("bounds", "strict", "ratio")] == [3, 1, 2]
    assert [rows[name, "common"] for name in ("bounds", "strict", "ratio")] == [0, 4, 2]
    assert {rows[name, kind] for name in ("bounds", "strict", "ratio") for kind in ("tied", "dead")
            } == {1}  # fmt: skip
    assert sum(rows.values()) == 3 * 8


@pytest.mark.filterwarnings("error")
def test_a_domain_is_chosen_on_one_half_and_reported_on_the_other() -> None:
    choosing = [[4, 6], [4, 1], [0, 3], [0, 0], [3, 3]]  # firings of five features in x and y
    reported = [[5, 20], [1, 10], [0, 0], [7, 7], [8, 0]]
    measured = counted([choosing, reported], [[10, 40], [50, 100]])
    table = table_of([[1, 1]] * 5, measured)
    # Of the first, y has more firings in the half that chooses, but x the larger density.
    assert table["top_domain"].to_list() == ["x", "x", "y", None, "x"]
    share = table["top_domain_share"].to_list()
    assert share == pytest.approx([0.1 / 0.3, 0.02 / 0.12, None, None, 1.0])
    assert table["density"].to_list() == pytest.approx(
        [35 / 200, 16 / 200, 3 / 200, 14 / 200, 14 / 200]
    )


def test_noise_has_no_domain() -> None:
    """Features that fire anywhere: the best of two domains has half of the density, not more."""
    random = np.random.default_rng(0)
    fired_in = random.binomial(1000, 0.01, size=(2, 500, 2))
    table = table_of([[1, 1]] * 500, counted(fired_in, np.full((2, 2), 1000)))
    assert table["top_domain_share"].mean() == pytest.approx(0.5, abs=0.02)
    both = fired_in.sum(0)
    assert (both.max(1) / both.sum(1)).mean() > 0.55  # what choosing on all rows would report


def test_scaling_is_null_where_it_was_not_measured() -> None:
    table = table_of([[1, 1]] * 2, counted([[[9, 9]] * 2] * 2, [[9, 9]] * 2))
    nu = {"nu_error": np.array([0.5, np.nan]), "fired": np.array([3, 4])}
    found = with_scaling(table, nu)
    assert found["nu_error"].to_list() == [0.5, None]
    assert found["fired"].to_list() == [36, 36]
