"""A small dictionary to look through, with every value known by hand."""

from __future__ import annotations

import json
import re

import polars as pl

from moediff.report.browser import Browsed

SECONDS = 3.0  # from the start of navigation to a browser that can be used
HOSTILE = [
    "</script><img src=x onerror=\"document.title='broken'\">", "<!--", "<script>", '"', "'", "\\", "&lt;",
    "\u2028", "\u2029", "😀", "\n", "\t", "\x00", "\ud800", "\u202e", "漢", "", " ", "</SCRIPT >",
]  # fmt: skip
EXAMPLES = {
    "feature": pl.Int64, "rank": pl.Int64, "domain": pl.String, "row": pl.Int64,
    "activation": pl.Float32, "tokens": pl.List(pl.String), "activations": pl.List(pl.Float32),
    "peak": pl.Int64,
}  # fmt: skip


def examples(*rows: tuple) -> pl.DataFrame:
    """A table of examples from (feature, rank, domain, row, tokens, activations, peak)."""
    whole = [(*row[:4], row[5][row[6]], *row[4:]) for row in rows]
    return pl.DataFrame(whole, schema=EXAMPLES, orient="row")


def small() -> Browsed:
    """Seven features with values known by hand; features 3 and 6 have none."""
    features = pl.DataFrame(
        {
            "feature": range(7),
            "block": ["free"] * 7,
            "class": ["A-only", "common", "common", "dead", "B-only", "common", "dead"],
            "relative_norm": [None] * 7,
            "decoder_norm_moe.0": [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5],
            "fired": [9, 10, 100, 0, 1, 2, 0],
            "density": [0.09, 0.1, 0.5, 0.0, 0.00012345678, 0.02, 0.0],
            "mean_activation": [2.0, 10.0, 9.0, None, -1.5, float("nan"), None],
            "top_domain": ["code", "tales", "code", None, "tales", "code", None],
        },
        schema_overrides={"relative_norm": pl.Float64},
    )
    table = examples(
        (0, 0, "code", 17, ["if", " x", "\n", "return"], [0.0, 1.0, 0.001, 4.0], 3),
        (0, 1, "tales", 3, ["once", " upon"], [2.0, 1.0], 0),
        (1, 0, "tales", 5, HOSTILE[:13], [1.0] * 13, 0),
        (2, 0, "code", 6, [" once", "</"], [3.0, 0.0], 0),
        (4, 0, "tales", 7, ["aa", "b"], [1.0, 0.5], 0),
        (5, 0, "code", 8, ["zz"], [1.0], 0),
    )
    experts = pl.DataFrame(
        {
            "feature": [0, 0, 1, 2], "source": ["moe.0"] * 4, "layer": [1, 2, 1, 1],
            "expert": [5, 3, None, 7], "information": [0.1, 0.25, None, 0.00123456],
        }
    )  # fmt: skip
    return Browsed("small: <b>", features, table, experts)


def parts(html: str) -> dict:
    """The embedded data by name."""
    found = re.findall(
        r'<script type="application/json" data-part="([^"]+)">(.*?)</script>', html, re.S
    )
    return {name: json.loads(text) for name, text in found}
