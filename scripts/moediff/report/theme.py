"""What all charts have in common: one theme, the colours, how a chart is saved.

Colours are those of Okabe and Ito, told apart by colour-blind readers and in print.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path

import altair as alt
import polars as pl

from moediff.core import artifact
from moediff.report.svg import marked

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CLASS_COLOURS = {
    "A-only": "#0072B2", "common": "#009E73", "B-only": "#D55E00", "tied": "#CC79A7",
    "live": "#009E73", "dead": "#999999",
}  # fmt: skip
LETTER = 8.5  # pixels of a letter of a title, in a wide font: which one a reader has is not known
Size = Mapping[str, int]

alt.data_transformers.disable_max_rows()  # a chart has a row a feature


@alt.theme.register("moediff", enable=True)
def _theme() -> alt.theme.ThemeConfig:
    return {
        "background": "white",
        "config": {
            "font": "Arial, Helvetica, sans-serif",  # of one width on most machines
            "title": {"fontSize": 14, "anchor": "start", "subtitleColor": "#444"},
            "axis": {
                "labelFontSize": 11,
                "titleFontSize": 12,
                "gridColor": "#e6e6e6",
                "titlePadding": 12,
            },
            # Room for a font that is wider than the one that the chart was measured in.
            "legend": {"labelFontSize": 11, "titleFontSize": 12, "columnPadding": 26},
            "header": {"labelFontSize": 12, "titleFontSize": 12},
            "view": {"stroke": None},
            "range": {"category": list(COLOURS)},
        },
    }


def svg(chart: alt.TopLevelMixin) -> str:
    """A chart as SVG."""
    drawn = StringIO()
    chart.save(drawn, format="svg")
    return drawn.getvalue()


def save(chart: alt.TopLevelMixin, paths: Sequence[Path | str]) -> None:
    """Write a chart as each of `paths` says: self-contained HTML, SVG or PNG."""
    import vl_convert

    drawn = svg(chart)
    for path in map(Path, paths):
        with artifact.whole(path) as partial:
            match path.suffix:
                case ".html":
                    chart.save(str(partial), format="html", inline=True)
                case ".svg":
                    partial.write_text(marked(drawn), encoding="utf-8")
                case ".png":  # of the SVG, which Altair would make once more
                    partial.write_bytes(vl_convert.svg_to_png(drawn, scale=2))
                case kind:
                    raise ValueError(f"{path}: charts are not written as {kind}")


def heading(text: str, width: int, *subtitles: str) -> alt.TitleParams:
    """A chart's title in lines that fit `width` pixels, and below it smaller lines."""
    letters = max(int(width / LETTER), 20)
    smaller = [line for text in subtitles for line in textwrap.wrap(text, int(1.3 * letters))]
    return alt.TitleParams(textwrap.wrap(text, letters), subtitle=smaller)


def room(labels: Iterable[str]) -> dict[str, int]:
    """Padding of a chart with such labels on its left, for a font that is wider than the one it was
    measured in."""
    return {
        "left": 5 + max((len(label) for label in labels), default=0),
        "top": 5,
        "right": 5,
        "bottom": 5,
    }


def class_colours(names: Mapping[str, str]) -> dict[str, str]:
    """Colours by what classes are called, as `labels.class_names` has it."""
    return {names.get(name, name): colour for name, colour in CLASS_COLOURS.items()}


def class_colour(names: Mapping[str, str], table: pl.DataFrame) -> alt.Color:
    """One colour a class, always the same; those that the table has, by the names in it."""
    colours = class_colours(names)
    present = set(table["class"])
    seen = [name for name in colours if name in present]
    return (
        alt.Color("class:N", title="class")
        .scale(domain=seen, range=[colours[name] for name in seen])
        .legend(symbolOpacity=1)
    )


def spread_out(values: Sequence[float], least: float, highest: float) -> list[float]:
    """Rising values, moved so that neighbours are `least` apart and none is above `highest`."""
    found: list[float] = []
    for value in values:
        found.append(max(value, found[-1] + least) if found else value)
    for place in reversed(range(len(found))):
        found[place] = min(found[place], highest)
        highest = found[place] - least
    return found
