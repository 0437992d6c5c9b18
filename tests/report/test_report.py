"""Plots and page: numbers known by hand, nothing fetched, the right first sentence."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from moediff.config.layout import Member, Source
from moediff.report import labels, notes, page, theme
from moediff.report.charts.dictionaries import fve_chart
from moediff.report.charts.features import density_chart, relative_norm_chart
from moediff.report.charts.training import training_chart


def test_warnings_are_lines_on_weak_models_and_on_moes_that_are_worse() -> None:
    weak = notes.warnings({"moe": 4.0, "dense": 4.3}, 4.05, {"moe"}, 0.1)
    assert weak == [
        "This holds of these models. It is no evidence of what larger ones do, since these are barely "
        "trained: a trigram, which only counts runs of three tokens, has a loss of 4.050 nats a token, these "
        "models of: moe 4.000, dense 4.300."
    ]
    losses = {"moe": 3.53, "dense": 3.5, "wide": 3.4}
    (worse,) = notes.warnings(losses, 4.5, {"moe"}, 0.1)
    assert worse.startswith("moe models text worse than dense by 0.030, wide by 0.130 nats a token")
    assert notes.warnings({"moe": 3.51, "dense": 3.5}, 4.5, {"moe"}, 0.1) == []
    assert notes.warnings({}, None, set(), 0.1) == []


def test_a_table_keeps_its_columns_where_a_row_lacks_one() -> None:
    rows = [{"a": 1, "interval": [0.1, 0.25], "b": 2}, {"a": 3, "b": 4}, {"a": 5, "c": 6}]
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in page.table(rows).split("<tr>")[1:]]
    assert cells == [
        ["a", "interval", "b", "c"],
        ["1", "0.1000 to 0.2500", "2", "-"],
        ["3", "-", "4", "-"],
        ["5", "-", "-", "6"],
    ]


def test_a_long_table_scrolls_by_itself() -> None:
    assert '"wide long"' in page.table([{"a": 1}] * (page.LONG + 1))
    assert '"wide long"' not in page.table([{"a": 1}] * page.LONG)


@pytest.mark.parametrize(
    ("member", "called"),
    [
        ("moe.0", "moe.0"),
        ("moe.0_moe.1", "moe.0 + moe.1"),
        ("moe.0_moe.1_dense.0_dense.1_dense.2", "moe.0-1 + dense.0-2"),
        ("moe.0_moe.2_dense.10_dense.11_moe.3", "moe.0 + moe.2 + dense.10-11 + moe.3"),
        (
            "my_moe.0@resid_post.1_b.0.rotated@mlp_out.2",
            "my_moe.0@resid_post.1 + b.0.rotated@mlp_out.2",
        ),
        ("a_b.0@mlp_out.1_a_b.1@mlp_out.1_a_b.2", "a_b.0-1@mlp_out.1 + a_b.2"),
    ],
)
def test_a_panel_is_called_by_ranges_of_seeds(member: str, called: str) -> None:
    assert labels.member_label(member) == called


def test_names_that_members_have_are_taken_apart_whole() -> None:
    sources = (
        Source("a_b", 0, point="resid_post.1"),
        Source("c-d", 12, view="permuted"),
        Source("e", 3, point="mlp_out.2", view="rotated"),
    )
    called = labels.member_label(Member("x", sources).name)
    assert called == " + ".join(source.name for source in sources)


def test_dictionaries_of_other_seeds_and_comparisons_have_their_own_bars() -> None:
    rows = pl.DataFrame(
        {
            "comparison": ["c", "c", "d"], "member": ["a.0_b.0"] * 3, "recipe": ["r"] * 3,
            "seed": [0, 1, 0], "k": [4] * 3, "fve": [0.9, 0.8, 0.7], "baseline_mean": [0.0] * 3,
            "baseline_pca": [0.5] * 3,
        }
    )  # fmt: skip
    chart = fve_chart(rows, {"width": 200, "height": 100}).to_dict()
    (data,) = (rows for rows in chart["datasets"].values() if "kind" in rows[0])
    bars = [(row["dictionary"], row["kind"]) for row in data]
    assert len(set(bars)) == len(bars) == 9
    assert "c: a.0 + b.0, r, seed 1" in dict(bars)


def test_every_chart_is_saved_in_every_format(tmp_path: Path) -> None:
    size = {"width": 200, "height": 120}
    history = pl.DataFrame(
        {"model": ["m", "m"], "seed": ["0", "0"], "tokens": [1, 2], "cross_entropy": [3.0, 2.0]}
    )
    ngrams = pl.DataFrame(
        {"model": ["unigram", "bigram", "trigram"], "cross_entropy": [4.0, 3.0, 2.5]}
    )
    rows = pl.DataFrame(
        {
            "comparison": ["c"], "member": ["a.0_b.0"], "recipe": ["r"], "seed": [0], "k": [4],
            "fve": [0.9], "baseline_mean": [-0.01], "baseline_pca": [0.7],
        }
    )  # fmt: skip
    features = pl.DataFrame(
        {
            "dictionary": ["d"] * 4, "class": ["A-only", "common", "dead", "B-only"],
            "relative_norm": [0.1, 0.5, 0.5, 0.9], "density": [0.1, 0.01, 0.0, 0.2],
        }
    )  # fmt: skip
    charts = {
        "training": training_chart(history, ngrams, size),
        "fve": fve_chart(rows, size),
        "norm": relative_norm_chart(features, (0.3, 0.7), ("a", "b"), size),
        "density": density_chart(features, ("a", "b"), size),
    }
    said = {
        "training": "0.50 nats", "fve": "+0.200", "norm": "33 %", "density": "only b &gt; only a",
    }  # fmt: skip
    for name, chart in charts.items():
        paths = [tmp_path / f"{name}.{kind}" for kind in ("html", "svg", "png")]
        theme.save(chart, paths)
        assert paths[2].read_bytes().startswith(b"\x89PNG")
        assert said[name] in paths[1].read_text(encoding="utf-8")
        html = paths[0].read_text(encoding="utf-8")
        assert 'src="http' not in html
