"""The report: one self-contained HTML page of findings, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

LONG = 30  # rows: a longer table scrolls by itself
PHRASE = 20  # characters: longer text is not squeezed into a narrow column
WORSE = 0.02  # nats: an MoE this much worse than its dense twin is said in the first lines

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; 
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
.warning { border-left: 4px solid #D55E00; padding: .2rem .8rem; background: #fdf3ec }
.plain { border-left: 4px solid #0072B2; padding: .2rem .8rem; background: #eef5fb }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child, .text { text-align: left }
figure { margin: 1rem 0; overflow-x: auto } svg { max-width: 100%; height: auto }
nav ul { columns: 2; padding-left: 1.2rem; font-size: .9rem } section > .wide { overflow-x: auto }
td.text { max-width: 28rem; white-space: nowrap } td.phrase { min-width: 13rem; white-space: normal }
@media screen { .long { max-height: 44rem; overflow-y: auto }
  .long th { position: sticky; top: 0; background: white } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def verdicts(
    losses: Mapping[str, float],
    trigram: float | None,
    moes: set[str],
    barely: float,
    foreign: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """What a reader must know first, as (kind, sentence).

    `losses` is each trained model's last validation cross-entropy in nats a token (the mean over
    seeds), `trigram` that of the n-grams (None without a language model); `moes` names the models
    that are Mixtures of Experts, `barely` is by how many nats a model must beat the n-grams to be
    evidence, `foreign` names the models whose rows other code wrote.
    """
    found = []
    weak = [name for name, loss in losses.items() if trigram - loss <= barely]
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
    if foreign:
        found.append(
            (
                "plain",
                f"The rows of {', '.join(foreign)} were written by other code. Sources of one "
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
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """An HTML table; numbers to four digits, a list of two as an interval, what a row lacks as a dash."""
    if not rows:
        return "<p>none</p>"
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(_heading(name, [row.get(name) for row in rows]) for name in names)
    body = "".join(
        "<tr>" + "".join(_cell(row.get(name)) for name in names) + "</tr>" for row in rows
    )
    kind = "wide long" if len(rows) > LONG else "wide"
    return f'<div class="{kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def row_table(kept: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows kept of every model and split, and the share of its tokens left out, by reason.

    Where tokenizers differ, also the share of comparable rows that all of them end at, and the
    share of word ends among these rows and among the kept: the bias of the choice.
    """
    reasons = list(dict.fromkeys(name for about in kept for name in about["left_out"]))
    aligned = any(about["alignment"] for about in kept)
    shares = ("share_kept", "word_ends", "word_ends_kept")
    return [
        {
            "source": f"{about['model']}.{about['seed']}",
            "split": about["split"],
            "tokens": about["tokens"],
            "rows": about["rows"],
            **{name.replace("_", " "): about["share_left_out"].get(name) for name in reasons},
            **({name.replace("_", " "): (about["alignment"] or {}).get(name) for name in shares}
               if aligned else {}),
        }
        for about in kept
    ]  # fmt: skip


def _heading(name: str, values: Sequence[Any]) -> str:
    """The head of a column, above words to the left as they stand, above numbers to the right."""
    kind = ' class="text"' if any(isinstance(value, str) for value in values) else ""
    return f"<th{kind}>{escape(str(name).replace('_', ' '))}</th>"


def _cell(value: Any) -> str:
    kind = ""
    if isinstance(value, str):
        kind = ' class="text phrase"' if len(value) > PHRASE else ' class="text"'
    return f"<td{kind}>{escape(_shown(value))}</td>"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):  # an interval
        return " to ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or abs(value) >= 1e-4 else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def figure(svg: str) -> str:
    """SVG text as it is, as wide as the page."""
    return f"<figure>{svg}</figure>"


def page(
    sentences: Sequence[tuple[str, str]], sections: Mapping[str, str], versions: Mapping[str, str]
) -> str:
    """The whole page: what must be known first, a list of the sections, and these, heading to HTML.

    A policy in its head forbids every request: nothing can leave the page or come to it.
    """
    said = "".join(f'<p class="{kind}">{escape(text)}</p>' for kind, text in sentences)
    names = {name: f"section-{number}" for number, name in enumerate(sections)}
    listed = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for name, key in names.items())
    shown = "".join(
        f'<section id="{names[name]}"><h2>{escape(name)}</h2>{inside}</section>'
        for name, inside in sections.items()
    )
    made = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width"><title>moediff report</title>'
        f"<style>{_STYLE}</style></head><body><h1>What the MoE represents that the dense model "
        f"does not</h1>{said}<nav><ul>{listed}</ul></nav>{shown}"
        f"<p><small>Made by {escape(made)}.</small></p></body></html>\n"
    )
