"""The sections of the page that are more than one table or one figure.

Dictionaries are named by their folders, as `layout.path("dictionary", ...)` with no file gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from markupsafe import Markup

from moediff.analysis.measured import at_inference
from moediff.config.layout import Member, parse, path
from moediff.report import browser, changes, page, tables
from moediff.report.charts import CHARTS
from moediff.report.finding import Finding
from moediff.report.labels import class_names, label_of, sides_of

Record = Mapping[str, Any]


def first_figure(svgs: Mapping[str, str], best: Finding | None) -> Markup | None:
    """The figure of the first screen: the one that shows the first sentence, or what there is."""
    wanted = ([best.chart] if best else []) + ["fve"]
    return next((page.figure(svgs[name]) for name in wanted if name in svgs), None)


def differs(
    pair: str | None,
    features: Mapping[str, pl.DataFrame],
    examples: Mapping[str, pl.DataFrame],
    splicing: Sequence[pl.DataFrame],
    divergence: Sequence[pl.DataFrame],
    moved: Sequence[pl.DataFrame],
) -> dict[str, Markup]:
    """What differs most between the two models of the pair that is drawn; nothing without one."""
    if not pair:
        return {}
    member = parse("dictionary", pair + "features.parquet")["member"]
    sources = [source.name for source in Member.parse("", member).sources]
    sides = sides_of(member)
    parts = []
    for table in splicing:
        told = "Cross-entropy of both on the same text, in nats a token; domains that differ most first."
        parts += [page.text(told), page.table(changes.losses(table, sources, sides))]
    for table in divergence:
        told = (
            "How differently they predict the next token of the same text, by KL divergence: "
            f"KL({sides[0]} || {sides[1]}) is by how many nats a token {sides[1]} would predict worse than "
            f"{sides[0]} if what {sides[0]} expects were the truth, 0 where both predict the same. "
            "Same top token: the share of tokens for which both find one token most probable."
        )
        rows = changes.divergences(table, sides)
        parts += [page.text(told), page.table(rows)] if rows else []
    for table in moved:
        told = (
            "How far rows of one lie from those of the other on the same tokens: 0 is equal, 1.41 without "
            "relation, 2 opposite. It tells of models that share a basis, as a checkpoint and one tuned from "
            "it; models trained apart lie far from each other whatever they represent."
        )
        parts += [page.text(told), page.table(changes.rows_moved(table))] if len(table) else []
    told = (
        "Features by shift: how much more variance a feature adds to one model than to the other, over "
        f"what all features add. Relative norm: 0 is only {sides[0]}, 1 only {sides[1]}. Between models that "
        "were trained apart every dictionary has such features: read them beside the error rates of the "
        "controls."
    )
    rows = changes.features(features[pair], examples.get(pair), sources, sides)
    parts += [page.text(told), page.table(rows)]
    return {f"What differs most between {sides[0]} and {sides[1]}": Markup("").join(parts)}


def claims(study: Record) -> Markup:
    """Claims with a verdict as a table, and one line for all others, which opens to them."""
    with_verdict, without = tables.decided(tables.claims(study))
    parts = [page.table(with_verdict)] if with_verdict else []
    if study["exploratory"]:
        parts.insert(0, page.text(f"Exploratory, not confirmatory: {study['exploratory']}."))
    if without:
        why = tables.why_undecided(without, study)
        parts.append(page.folded(why, page.table(without)))
    return Markup("").join(parts)


def of_each(
    figures: Mapping[str, Mapping[str, str]], metrics: Mapping[str, Record], left_out: Sequence[str]
) -> Markup:
    """Figures of one dictionary at a time, by folder and chart; and which dictionaries have none here."""
    chosen = {}
    for folder, svgs in figures.items():
        row = at_inference(metrics[folder])
        name = (
            f"{label_of(metrics[folder])}: {100 * row['fve']:.1f} % explained at L0 {row['l0']:.1f}"
        )
        chosen[name] = page.figures({CHARTS[chart].title: svg for chart, svg in svgs.items()})
    told = (
        "Choose a dictionary. Losses with reconstructions and experts are drawn of the first alone."
    )
    parts = [page.text(told), page.chooser(chosen)]
    if left_out:
        listed = Markup("<ul>{}</ul>").format(
            Markup("").join(Markup("<li>{}</li>").format(folder) for folder in left_out)
        )
        parts.append(
            page.folded(
                f"{len(left_out)} more dictionaries are not here; their features.parquet and metrics.json "
                "lie in these folders.",
                listed,
            )
        )
    return Markup("").join(parts)


def took() -> Markup:
    """Where it stands what each stage took, which differs between two runs as this page must not."""
    place = path("stages", format="html")
    told = Markup(
        '<p>Hours and memory of this run by stage: <a href="{0}">{0}</a>, beside this page.</p>'
    )
    return told.format(place)


def browsed(
    label: str,
    record: Record,
    features: pl.DataFrame,
    examples: pl.DataFrame | None,
    recurs: Sequence[pl.DataFrame],
    experts: Sequence[pl.DataFrame],
) -> browser.Browsed:
    """A dictionary to look through: classes by the names of its models, with what is known beside."""
    sides = sides_of(record["member"])
    table = features.with_columns(pl.col("class").replace(class_names(sides)))
    for found in recurs:
        table = browser.with_recurrence(table, found)
    note = f"Relative norm: 0 is only {sides[0]}, 1 only {sides[1]}." if len(sides) == 2 else ""
    if examples is None:
        note += " No text: these rows are a control's, or other code wrote them."
    told = pl.concat(experts) if any(map(len, experts)) else None
    return browser.Browsed(label, table, examples, told, note.strip())
