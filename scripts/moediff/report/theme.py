"""What all charts have in common: one theme, the colours, how a chart is saved.

Colours are those of Okabe and Ito, told apart by colour-blind readers and in print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

import altair as alt
import polars as pl

from moediff.core import artifact

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CLASS_COLOURS = {
    "A-only": "#0072B2", "common": "#009E73", "B-only": "#D55E00", "tied": "#CC79A7",
    "live": "#009E73", "dead": "#999999",
}  # fmt: skip
# The same of an MoE and a dense model, whichever of them is A.
KIND_COLOURS = {
    "MoE-only": "#0072B2", "common": "#009E73", "dense-only": "#D55E00", "tied": "#CC79A7",
}  # fmt: skip
Size = Mapping[str, int]

alt.data_transformers.disable_max_rows()  # a chart has a row a feature


@alt.theme.register("moediff", enable=True)
def _theme() -> alt.theme.ThemeConfig:
    return {
        "background": "white",
        "config": {
            "font": "sans-serif",
            "title": {"fontSize": 14, "anchor": "start", "subtitleColor": "#444"},
            "axis": {"labelFontSize": 11, "titleFontSize": 12, "gridColor": "#e6e6e6"},
            "legend": {"labelFontSize": 11, "titleFontSize": 12},
            "header": {"labelFontSize": 12, "titleFontSize": 12},
            "view": {"stroke": None},
            "range": {"category": list(COLOURS)},
        },
    }


def save(chart: alt.TopLevelMixin, paths: Sequence[Path | str]) -> None:
    """Write a chart as each of `paths` says: self-contained HTML, SVG or PNG."""
    import vl_convert

    drawn = StringIO()
    chart.save(drawn, format="svg")
    svg = drawn.getvalue()
    for path in map(Path, paths):
        with artifact.whole(path) as partial:
            match path.suffix:
                case ".html":
                    chart.save(str(partial), format="html", inline=True)
                case ".svg":
                    partial.write_text(svg, encoding="utf-8")
                case ".png":  # of the SVG, which Altair would make once more
                    partial.write_bytes(vl_convert.svg_to_png(svg, scale=2))
                case kind:
                    raise ValueError(f"{path}: charts are not written as {kind}")


def class_colour(colours: Mapping[str, str], table: pl.DataFrame) -> alt.Color:
    """One colour a class, always the same; those that the table has."""
    seen = [name for name in colours if name in table["class"].to_list()]
    return (
        alt.Color("class:N", title="class")
        .scale(domain=seen, range=[colours[name] for name in seen])
        .legend(symbolOpacity=1)
    )
