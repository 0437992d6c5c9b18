"""The report: one self-contained HTML page of findings, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from moediff.report.templates import render

LONG = 30  # rows: a longer table scrolls by itself
PHRASE = 20  # characters: longer text is not squeezed into a narrow column
WORSE = 0.02  # nats: an MoE this much worse than its dense twin is said in the first lines


def verdicts(
    losses: Mapping[str, float],
    trigram: float | None,
    moes: set[str],
    barely: float,
    external: Sequence[str] = (),
    withheld: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """What a reader must know first, as (kind, sentence).

    `losses` is each trained model's last validation cross-entropy in nats a token (the mean over
    seeds), `trigram` that of the n-grams (None without a language model); `moes` names the models
    that are Mixtures of Experts, `barely` is by how many nats a model must beat the n-grams to be
    evidence, `external` names the models of external activations, `withheld` are the reasons for which
    no claim has a verdict.
    """
    found = []
    weak = [
        name for name, loss in losses.items() if trigram is not None and trigram - loss <= barely
    ]
    if weak:
        listed = ", ".join(f"{name} {losses[name]:.3f}" for name in weak)
        found.append(
            (
                "warning",
                f"This run is a pipeline check, not evidence: {listed} nats a token do not beat a "
                f"smoothed trigram model ({trigram:.3f}) by more than {barely:g}. Train on more tokens.",
            )
        )
    elif losses:
        found.append(
            ("plain", f"Every model beats a smoothed trigram ({trigram:.3f} nats a token).")
        )
    dense = [name for name in losses if name not in moes]
    for moe in sorted(moes & losses.keys()):
        for other in dense:
            gap = losses[moe] - losses[other]
            if gap > WORSE:
                found.append(
                    (
                        "warning",
                        f"The MoE {moe} models text worse than {other}, by {gap:.3f} nats a token: "
                        "differences between their features may be differences in quality.",
                    )
                )
            elif gap < -WORSE:
                found.append(
                    (
                        "plain",
                        f"The MoE {moe} models text better than {other}, by {-gap:.3f} nats a token; "
                        "the two are matched in active size, not in loss.",
                    )
                )
    if external:
        found.append(
            (
                "plain",
                f"The rows of {', '.join(external)} were written by other code. Sources of one "
                "dictionary were checked to be the same tokens in the same places; what computed "
                "those rows was not.",
            )
        )
    found.append(
        (
            "plain",
            "Counts of features by class depend on the number of features, on k and on noise, and two models "
            "that share every concept also show exclusive features: read them beside the error rates of "
            "the controls, and a panel before any pair.",
        )
    )
    if withheld:
        found.append(("warning", f"No claim has a verdict here: {'; '.join(withheld)}."))
    return found


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


def sections(
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    figures: Mapping[str, Markup],
    last: Mapping[str, Markup],
) -> dict[str, Markup]:
    """What the page shows, by heading: the first table, figures, the other tables, what comes last."""
    drawn = {heading: table(rows) for heading, rows in tables.items()}
    first = dict(list(drawn.items())[:1])
    return {**first, **figures, **drawn, **last}


def figure(svg: str) -> Markup:
    """SVG text as it is, as wide as the page."""
    return Markup(f"<figure>{svg}</figure>")


def page(
    sentences: Sequence[tuple[str, str]],
    sections: Mapping[str, Markup],
    versions: Mapping[str, str],
) -> str:
    """The whole page: what must be known first, a list of the sections, and these, heading to HTML.

    A policy in its head forbids every request: nothing can leave the page or come to it.
    """
    made = ", ".join(f"{name} {number}" for name, number in versions.items())
    return render("page.html.j2", sentences=sentences, sections=sections, versions=made)
