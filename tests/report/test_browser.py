"""The feature browser: its data survives any text."""

from __future__ import annotations

import json

import pytest

from browsed import HOSTILE, examples, parts, small
from moediff.core.errors import UserError
from moediff.report.browser import Browsed, browser, embedded


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_comes_back_and_nothing_breaks_out(text: str) -> None:
    found = embedded({text: [text, 1.5, None]})
    assert json.loads(found) == {text: [text, 1.5, None]}
    assert not set("<>&\u2028\u2029\ud800") & set(found)
    found.encode()


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded([float("nan")])


def test_what_is_embedded_is_what_the_tables_hold() -> None:
    html = browser([small(), small()])
    found = parts(html)
    assert found["labels"] == ["small: <b>"] * 2
    words = found["vocabulary"]
    assert len(set(words)) == len(words)
    assert found["dictionary-0"] == found["dictionary-1"]
    one = found["dictionary-0"]
    columns = {column["name"]: column for column in one["columns"]}
    assert "relative_norm" not in columns  # it has no value
    aside = {name for name, column in columns.items() if column["aside"]}
    assert aside == {"block", "decoder_norm_moe.0", "fired"}
    assert columns["density"]["values"] == [0.09, 0.1, 0.5, 0, 0.0001235, 0.02, 0]
    assert columns["mean_activation"]["values"] == [2, 10, 9, None, -1.5, None, None]
    levels = columns["top_domain"]["levels"]
    assert [n if n is None else levels[n] for n in columns["top_domain"]["values"]] == [
        "code", "tales", "code", None, "tales", "code", None
    ]  # fmt: skip
    first, second = one["examples"][0]
    assert [words[n] for n in first[4]] == ["if", " x", "\n", "return"]
    assert first[:4] == [one["domains"].index("code"), 17, 4, 3]
    assert first[5] == [1, 25, 2, 1, 3, 100]  # in percent of 4; a little is not nothing
    assert second[5] == [0, 50, 1, 25]  # of the feature's largest, not of its own
    assert [words[n] for n in one["examples"][1][0][4]] == HOSTILE[:13]
    assert one["examples"][3] == one["examples"][6] == []
    told = {column["name"]: column["values"] for column in one["experts"]}
    assert told["feature"] == [0, 0, 2]
    assert told["information"] == [0.1, 0.25, 0.001235]


def test_frequent_tokens_have_short_numbers() -> None:
    table = examples((0, 0, "code", 0, ["b", "a", "a", "c", "a", "b"], [1.0] * 6, 0))
    features = small().features.head(1)
    assert parts(browser([Browsed("d", features, table)]))["vocabulary"] == ["a", "b", "c"]


def test_a_table_that_lacks_a_column_is_refused() -> None:
    one = small()
    with pytest.raises(UserError, match=r"small: <b>: .* lacks class, top_domain"):
        browser([Browsed(one.label, one.features.drop("class", "top_domain"), one.examples)])
    with pytest.raises(UserError, match="lacks tokens"):
        browser([Browsed(one.label, one.features, one.examples.drop("tokens"))])
    with pytest.raises(UserError, match="lacks source"):
        browser([Browsed(one.label, one.features, one.examples, one.experts.drop("source"))])
