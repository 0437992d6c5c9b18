"""What differs most between two models: by numbers known by hand, with hostile text in the examples."""

from __future__ import annotations

import polars as pl
import pytest

from moediff.report import changes, page, sections, tables

SOURCES, SIDES = ("base.0", "tuned.0"), ("base", "tuned")


def features() -> pl.DataFrame:
    """Feature 1 adds 4 to the second alone, 0 adds 1 to the first alone, 2 the same to both; 3 is dead."""
    return pl.DataFrame(
        {
            "feature": [0, 1, 2, 3], "class": ["A-only", "B-only", "common", "dead"],
            "relative_norm": [0.0, 1.0, 0.5, 1.0], "decoder_norm_base.0": [1.0, 0.0, 1.0, 0.0],
            "decoder_norm_tuned.0": [0.0, 1.0, 1.0, 9.0], "density": [0.25, 0.25, 0.5, 0.0],
            "mean_activation": [2.0, 4.0, 2.0, None], "top_domain": ["code", "tales", None, None],
        }
    )  # fmt: skip


def test_the_shift_is_what_a_feature_adds_to_one_more_than_to_the_other() -> None:
    found = changes.shifts(features(), SOURCES)
    # All add 1, 4 and 2 + 2 to the two: halved, 4.5 in all.
    assert found["feature"].to_list() == [1, 0, 2]
    assert found["shift"].to_list() == pytest.approx([4 / 4.5, -1 / 4.5, 0.0])


def test_features_name_the_model_that_has_more_and_show_their_text() -> None:
    examples = pl.DataFrame(
        {
            "feature": [1, 1, 0], "rank": [1, 0, 0],
            "tokens": [["weaker"], ["a\n", "<script>", "</b>\t"], ["x" * 90, "peak", "y" * 90]],
            "peak": [0, 1, 1],
        }
    )  # fmt: skip
    rows = changes.features(features(), examples, SOURCES, SIDES, most=2)
    assert [(row["feature"], row["more in"]) for row in rows] == [("1", "tuned"), ("0", "base")]
    assert rows[0]["shift"] == pytest.approx(4 / 4.5)
    html = page.table(rows)
    assert '<span class="example">a↵<b>&lt;script&gt;</b>&lt;/b&gt;⇥</span>' in html
    assert "weaker" not in html
    assert "x" * changes.BEFORE + "<b>peak</b>" + "y" * changes.AFTER + "<" in html
    assert "x" * (changes.BEFORE + 1) not in html
    none = changes.features(features(), None, SOURCES, SIDES)
    assert [row["strongest example"] for row in none] == [None] * 3


def test_rows_that_moved_are_shown_with_the_range_of_most() -> None:
    moved = pl.DataFrame(
        [{"domain": "all", "rows": 9, "median": 0.5, "q05": 0.1, "q95": 0.9, "cosine": 0.8}]
    )
    assert changes.rows_moved(moved) == [
        {"domain": "all", "median distance": 0.5, "of 90 % of the rows": [0.1, 0.9], "median cosine": 0.8,
         "rows": 9}
    ]  # fmt: skip


def test_divergences_name_the_models_and_leave_out_what_is_not_known() -> None:
    table = pl.DataFrame(
        [
            {"domain": name, "tokens": 9, "text_groups": 12, "kl_first_second": 0.5,
             "kl_low": low, "kl_high": high, "kl_second_first": 0.25, "top1_agreement": 0.75}
            for name, low, high in (("all", 0.4, 0.6), ("code", None, None))
        ]
    )  # fmt: skip
    both = {
        "KL(base || tuned)": 0.5,
        "KL(tuned || base)": 0.25,
        "same top token": 0.75,
        "tokens": 9,
        "groups of documents": 12,
    }
    assert changes.divergences(table, SIDES) == [
        {"domain": "all", "95 % interval": [0.4, 0.6]} | both,
        {"domain": "code", "95 % interval": None} | both,
    ]
    moved = pl.DataFrame(
        [{"domain": "all", "rows": 9, "median": 0.5, "q05": 0.1, "q95": 0.9, "cosine": 0.8}]
    )
    pair = "dictionaries/c/base.0_tuned.0/r/seed-0/"

    def shown(divergence: list[pl.DataFrame]) -> str:
        (section,) = sections.differs(
            pair, {pair: features()}, {}, [spliced()], divergence, [moved]
        ).values()
        return str(section)

    section = shown([table])
    marks = ("Cross-entropy of both", "KL(base || tuned)", "How far rows", "Features by shift")
    places = [section.index(mark) for mark in marks]
    assert places == sorted(places)  # after the losses, before the rows
    assert "KL" not in shown([])  # models trained here
    assert "KL" not in shown([table.clear()])  # two tokenizers


def spliced() -> pl.DataFrame:
    rows = [
        {"source": source, "domain": domain, "routing": routing, "kind": kind, "tokens": 10,
         "cross_entropy": loss + (kind != "clean")}
        for source, losses in (("base.0", (3.0, 2.0, 4.0)), ("tuned.0", (2.5, 1.9, 3.1)))
        for domain, loss in zip(("all", "code", "tales"), losses, strict=True)
        for routing in ("live", "frozen") for kind in ("clean", "spliced")
    ]  # fmt: skip
    return pl.DataFrame(rows)


def test_losses_stand_side_by_side_and_the_domain_that_moved_most_first() -> None:
    found = changes.losses(spliced(), SOURCES, SIDES)
    assert [row["domain"] for row in found] == ["all", "tales", "code"]
    assert found[1] == {
        "domain": "tales", "base": 4.0, "tuned": 3.1, "tuned less base": pytest.approx(-0.9), "tokens": 10
    }  # fmt: skip


def test_loaded_models_have_their_loss_in_the_table_with_the_text_it_is_of() -> None:
    levels = {"trigram": {"all": 2.8, "code": 2.0, "tales": 3.0}}
    found = tables.cross_entropies({}, [spliced()], levels)
    assert list(found) == ["base", "tuned", "trigram"]
    assert found["tuned"] == {"over": "10 tokens", "all": 2.5, "code": 1.9, "tales": 3.1}
    assert found["trigram"]["over"] == "all validation"
    trained = {name: {"all": 1.0} for name in SIDES}
    assert tables.cross_entropies(trained, [spliced()], {}) == trained
    assert tables.cross_entropies({}, [], {}) == {}
