"""The feature browser works under real clicks in Chromium."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from browsed import EXAMPLES, HOSTILE, SECONDS, small
from moediff.report import page
from moediff.report.browser import Browsed, browser
from windows import chromium, resize

__all__ = ["chromium"]

FEATURES = 4096


def large() -> Browsed:
    """A synthetic dictionary of 4,096 features, 8 examples of 25 tokens each; 600 is planted."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(random.choice(letters, random.integers(2, 9))) for _ in range(8000)]
    words = np.array([" " + word for word in words])
    token = words[np.minimum(random.zipf(1.2, (FEATURES * 8, 25)), 8000) - 1]
    value = random.exponential(2.0, token.shape) * (random.random(token.shape) < 0.15)
    value[:, 16] = -np.sort(-random.exponential(3.0, (FEATURES, 8)) - 12, axis=1).ravel()
    token[600 * 8, 15:18] = [" quo", "kka", " zebra"]
    number = np.arange(FEATURES)
    density = np.round(random.random(FEATURES), 4)  # what is shown: ties would fall otherwise
    nothing = number % 10 == 9
    domain = np.array(["code", "science", "stories"])[number % 3].tolist()
    kind = np.array(["A-only", "common", "B-only", "tied"])[(number // 3) % 4].tolist()
    norm = random.random(FEATURES)
    features = pl.DataFrame(
        {
            "feature": number, "block": "free", "class": kind, "class_strict": kind,
            "class_ratio": kind, "decoder_norm_moe.0": norm, "decoder_norm_dense.0": 1 - norm,
            "relative_norm": norm, "decoder_cosine": norm, "fired": (density * 1e5).astype(int),
            "density": density, "mean_activation": 10 * random.random(FEATURES),
            "top_domain": domain, "top_domain_share": np.where(nothing, np.nan, norm),
            "nu_error": norm, "nu_reconstruction": norm, "paper_error": norm,
            "paper_reconstruction": norm,
        }
    ).with_columns(pl.col("top_domain_share").fill_nan(None))  # fmt: skip
    table = pl.DataFrame(
        {
            "feature": np.repeat(number, 8), "rank": np.tile(np.arange(8), FEATURES),
            "domain": np.repeat(domain, 8), "row": random.integers(0, 150_000, FEATURES * 8),
            "activation": value[:, 16], "tokens": token.tolist(), "activations": value.tolist(),
            "peak": 16,
        },
        schema_overrides=EXAMPLES,
    )  # fmt: skip
    return Browsed("pair: moe.0 + dense.0, default, seed 0", features, table)


@pytest.fixture(scope="module")
def both() -> tuple[Browsed, Browsed]:
    return large(), small()


@pytest.fixture(scope="module")
def written(both, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with the browser in it."""
    sections = {"Before": page.table([{"x": 1}]), "Features": browser(both)}
    path = tmp_path_factory.mktemp("page") / "report.html"
    first = page.First("Two models", [], None, ["Said first."], None, [], [])
    path.write_text(page.page(first, sections, {"moediff": "0"}), encoding="utf-8")
    return path


class Opened:
    """The browser as a reader has it."""

    def __init__(self, window, path: Path) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        self.window = window
        window.get(path.as_uri())
        WebDriverWait(window, 30, 0.05).until(lambda w: self.all("#feature-browser[data-ready]"))

    def all(self, selector: str) -> list:
        return self.window.find_elements("css selector", selector)

    def part(self, name: str):
        (found,) = self.all(f"#feature-browser [data-part={name}]")
        return found

    def status(self) -> str:
        return self.part("status").text

    def search(self, text: str) -> None:
        self.part("search").clear()
        self.part("search").send_keys(text)

    def choose(self, name: str, starts: str) -> None:
        (option,) = (o for o in self.part(name).find_elements("tag name", "option")
                     if o.get_property("text").startswith(starts))  # fmt: skip
        option.click()

    def sort(self, column: str) -> str:
        """Click a head; the direction that it then says."""

        def head():
            return next(
                h for h in self.all("#feature-browser .list thead th") if h.text.startswith(column)
            )

        head().find_element("tag name", "button").click()
        return head().get_attribute("aria-sort")

    def features(self) -> list[int]:
        return self.window.execute_script(
            "return [...document.querySelectorAll('#feature-browser tr.feature .number')]"
            ".map(b => Number(b.textContent))"
        )

    def too_wide(self) -> bool:
        return self.window.execute_script(
            "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )

    def took(self) -> float:
        """Seconds from the start of navigation to a drawn browser."""
        return self.window.execute_script(
            "return performance.getEntriesByName('feature browser ready')[0].startTime / 1000"
        )


@pytest.fixture
def opened(chromium, written) -> Opened:
    return Opened(chromium, written)


def test_4096_features_are_there_in_three_seconds(chromium, written) -> None:
    """The best of up to five navigations: what another job on the machine costs is not the page's."""
    assert written.stat().st_size < 15e6
    taken = []
    while len(taken) < 5 and not (taken and min(taken) < SECONDS):
        opened = Opened(chromium, written)
        taken.append(opened.took())
    print(f"{written.stat().st_size / 1e6:.1f} MB, {min(taken):.2f} s")
    assert min(taken) < SECONDS
    assert opened.features() == list(range(50))
    assert opened.status() == "1 to 50 of 4,096 features"


def test_search_finds_text_of_examples_class_domain_and_number(opened, both) -> None:
    opened.search("QUOKKA zebra")  # over three tokens
    assert opened.features() == [600]
    assert opened.status() == "1 to 1 of 1 features, of 4,096 in all"
    opened.search("#77")
    assert opened.features() == [77]
    table = both[0].features
    for text, column in (("b-only", "class"), ("science", "top_domain")):
        opened.search(text)
        expected = table.filter(pl.col(column).str.to_lowercase() == text)["feature"].to_list()
        assert opened.features() == expected[:50]
        assert f"of {len(expected):,} features" in opened.status()
    opened.search("no such text")
    assert opened.features() == []
    assert opened.status() == "no feature passes, of 4,096 in all"


def test_filters_by_class_and_domain_work_together(opened, both) -> None:
    opened.choose("class", "A-only")
    opened.choose("domain", "code")
    table = both[0].features.filter(pl.col("class") == "A-only", pl.col("top_domain") == "code")
    assert opened.features() == table["feature"].to_list()[:50]
    assert opened.status() == f"1 to 50 of {len(table)} features, of 4,096 in all"
    opened.part("next").click()
    assert opened.features() == table["feature"].to_list()[50:100]
    opened.choose("class", "all")
    assert opened.status().startswith("1 to 50 of 1,366 features")
    opened.choose("class", "common")
    opened.choose("domain", "all")
    opened.choose("which", "small")  # a filter stays where there is such a class
    assert opened.features() == [1, 2, 5]


def test_columns_sort_both_ways_with_what_is_missing_last(opened, both) -> None:
    table = both[0].features
    assert opened.sort("density") == "ascending"
    assert opened.features() == table.sort("density")["feature"].to_list()[:50]
    assert opened.sort("density") == "descending"
    assert opened.features() == table.sort("density", descending=True)["feature"].to_list()[:50]
    opened.choose("which", "small")
    orders = {
        "mean activation": ([4, 0, 2, 1, 3, 5, 6], [1, 2, 0, 4, 3, 5, 6]),  # 9 before 10
        "top domain": ([0, 2, 5, 1, 4, 3, 6], [1, 4, 0, 2, 5, 3, 6]),
        "density": ([3, 6, 4, 5, 0, 1, 2], [2, 1, 0, 5, 4, 3, 6]),
        "strongest example": ([2, 1, 4, 0, 5, 3, 6], [5, 0, 4, 1, 2, 3, 6]),
    }
    for column, (up, down) in orders.items():
        assert opened.sort(column) == "ascending"
        assert opened.features() == up, column
        assert opened.sort(column) == "descending"
        assert opened.features() == down, column
    assert len(opened.all("#feature-browser th[aria-sort]")) == 1
    opened.part("aside").click()
    opened.sort("fired")
    assert opened.features() == [3, 6, 4, 5, 0, 1, 2]


def test_a_click_shows_examples_coloured_by_activation(opened) -> None:
    opened.choose("which", "small")
    rows = opened.all("#feature-browser tr.feature")
    rows[0].find_elements("tag name", "td")[1].click()
    items = opened.all("#feature-browser li")
    assert [item.find_element("tag name", "div").text for item in items] == [
        "if x↵return",
        "once upon",
    ]
    assert [item.find_element("tag name", "span").text for item in items] == [
        "4.00 code",
        "2.00 tales",
    ]
    tokens = opened.all("#feature-browser li .token")
    assert [token.text for token in tokens] == [" x", "↵", "return", "once", " upon"]
    assert [token.get_attribute("title") for token in tokens] == [
        f"activation {value}" for value in ("1.00", "0.0400", "4.00", "2.00", "1.00")
    ]
    colours = [token.value_of_css_property("background-color") for token in tokens]
    opacity = [float(re.findall(r"[\d.]+", colour)[3]) for colour in colours]
    assert opacity == pytest.approx([0.175, 0.007, 0.7, 0.35, 0.175], abs=0.003)
    assert ["peak" in token.get_attribute("class") for token in tokens] == [
        False,
        False,
        True,
        True,
        False,
    ]
    told = [row.text for row in opened.all("#feature-browser .experts tbody tr")]
    assert told == ["moe.0 2 3 0.250", "moe.0 1 5 0.100"]
    rows[3].click()
    assert "fires on no validation row" in opened.all("#feature-browser .examples")[1].text
    rows[0].find_elements("tag name", "td")[1].click()
    assert len(opened.all("#feature-browser .examples")) == 1
    # What is open stays open where rows are drawn anew.
    opened.sort("density")
    assert opened.all("#feature-browser tbody tr")[1].text.startswith("It fires on no")


def test_tokens_that_are_markup_are_shown_as_text(opened) -> None:
    opened.choose("which", "small")
    title = opened.window.title
    opened.all("#feature-browser tr.feature")[1].click()
    shown = opened.all("#feature-browser li .token")
    texts = [token.get_property("textContent") for token in shown]
    assert texts == [text.replace("\n", "↵") for text in HOSTILE[:13]]
    assert opened.all("#feature-browser img") == []
    assert opened.window.title == title
    assert opened.part("which").text.endswith("small: <b>")


def test_the_keyboard_alone_opens_and_sorts(opened) -> None:
    from selenium.webdriver.common.keys import Keys

    opened.all("#feature-browser .number")[2].send_keys(Keys.ENTER)
    (inside,) = opened.all("#feature-browser .examples")
    assert len(inside.find_elements("tag name", "li")) == 8
    button = opened.window.switch_to.active_element
    assert button.get_attribute("aria-expanded") == "true"
    assert button.get_attribute("aria-label") == "examples of feature 2"
    button.send_keys(Keys.ENTER)
    assert opened.all("#feature-browser .examples") == []
    opened.all("#feature-browser th button")[0].send_keys(Keys.ENTER)
    assert opened.features()[:2] == [4095, 4094]
    again = opened.window.switch_to.active_element
    assert again.get_attribute("data-column") == "feature"  # focus is not lost
    for control in opened.all("#feature-browser input, #feature-browser select"):
        assert control.accessible_name


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_never_wider_than_its_window(opened, width: int) -> None:
    resize(opened.window, width)
    try:
        for row in opened.all("#feature-browser .number")[:2]:
            row.click()
        assert not opened.too_wide()
        visible = opened.window.execute_script(
            "const box = document.querySelector('#feature-browser .wide');"
            "return box.scrollWidth - box.clientWidth"
        )
        assert visible == 0 or width < 1280  # the main columns need no scrolling at 1,280
        opened.part("aside").click()
        assert not opened.too_wide()
    finally:
        resize(opened.window, 1280)


def test_nothing_is_requested(chromium, written) -> None:
    chromium.get_log("performance")
    chromium.get_log("browser")
    opened = Opened(chromium, written)
    opened.choose("which", "small")
    for row in opened.all("#feature-browser .number"):
        row.click()
    messages = [
        json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")
    ]
    asked = [
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    ]
    assert asked == [written.as_uri()]
    assert chromium.get_log("browser") == []  # nor was anything refused, nor did the script fail
    policy = opened.all("meta[http-equiv=Content-Security-Policy]")[0].get_attribute("content")
    assert policy.startswith("default-src 'none'")
