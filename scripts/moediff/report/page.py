"""The report: one self-contained HTML page of findings, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from moediff.report.finding import Finding
from moediff.report.templates import render

LONG = 30  # rows: a longer table scrolls by itself
PHRASE = 20  # characters: longer text is not squeezed into a narrow column


@dataclass(frozen=True)
class First:
    """What a reader sees first."""

    title: str
    facts: Sequence[tuple[str, Sequence[str]]]  # what was compared
    finding: Finding | None
    warnings: Sequence[str]  # a line each, after the first sentence
    figure: Markup | None
    can_say: Sequence[str]
    cannot_say: Sequence[str]


def table(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """An HTML table; numbers to four digits, a list of two as an interval, what a row lacks as a dash."""
    if not rows:
        return Markup("<p>none</p>")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return render(
        "table.html.j2",
        kind="wide long" if len(rows) > LONG else "wide",
        heads=[_heading(name, [row.get(name) for row in rows]) for name in names],
        rows=[[_cell(row.get(name)) for name in names] for row in rows],
    )


def _heading(name: str, values: Sequence[Any]) -> tuple[str, str]:
    """The head of a column and its class: it stands as its values do, words to the left."""
    text = any(isinstance(value, str) for value in values)
    return str(name).replace("_", " "), "text" if text else ""


def _cell(value: Any) -> tuple[str, str]:
    """What a cell shows, and its class."""
    if not isinstance(value, str):
        return _shown(value), ""
    return value, "text phrase" if len(value) > PHRASE else "text"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):  # an interval
        return " to ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or abs(value) >= 1e-4 else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def text(line: str) -> Markup:
    """A paragraph."""
    return Markup("<p>{}</p>").format(line)


def folded(summary: str, content: Markup, is_open: bool = False, group: str = "") -> Markup:
    """Content below a line that opens it; of a `group` one is open at a time."""
    return render("folded.html.j2", summary=summary, content=content, is_open=is_open, group=group)


def figure(svg: str) -> Markup:
    """SVG text as it is, as wide as the page."""
    return Markup(f"<figure>{svg}</figure>")


def figures(titled: Mapping[str, str]) -> Markup:
    """SVG texts, each below its title."""
    parts = (Markup("<h3>{}</h3>").format(title) + figure(svg) for title, svg in titled.items())
    return Markup("").join(parts)


def chooser(dictionaries: Mapping[str, Markup]) -> Markup:
    """One dictionary at a time: what there is of each below its name, the first open. Needs no script."""
    return Markup("").join(
        folded(name, content, is_open=not number, group="dictionary")
        for number, (name, content) in enumerate(dictionaries.items())
    )


def page(first: First, sections: Mapping[str, Markup], versions: Mapping[str, str]) -> str:
    """The whole page: what must be known first, a list of the sections, and these, heading to HTML.

    A policy in its head forbids every request: nothing can leave the page or come to it.
    """
    made = ", ".join(f"{name} {number}" for name, number in versions.items())
    return render("page.html.j2", first=first, sections=sections, versions=made)
