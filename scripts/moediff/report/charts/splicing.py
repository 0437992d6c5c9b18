"""Losses with reconstructions in place, by domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from moediff.config.layout import Member
from moediff.report.charts import Tables
from moediff.report.labels import labelled, sides_of
from moediff.report.theme import Size, heading, room

# How a model is run, in order, by the kinds of `splicing`: name and colour.
LOSSES = {
    "clean": ("clean", "#009E73"), "spliced": ("spliced", "#0072B2"),
    "mean": ("mean-ablated", "#E69F00"), "zero": ("zero-ablated", "#D55E00"),
}  # fmt: skip


def domains(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of the models of the dictionary that is looked at."""
    (rows,) = tables["splicing"]
    _, member, *_ = settings["drawn"]
    sources = [source.name for source in Member.parse("", member).sources]
    called = dict(zip(sources, sides_of(member), strict=True))
    return domains_chart(rows, called, size)


def domains_chart(rows: pl.DataFrame, called: Mapping[str, str], size: Size) -> alt.Chart:
    """Loss of each source by domain: clean, spliced and ablated; and the share of it recovered.

    rows: comparison, member, recipe, seed, source, domain, routing, kind, cross_entropy, recovered_zero,
    recovered_mean, as splicing.parquet has them; routing is live here. called: what each source is
    called in the chart.
    """
    live = labelled(rows.filter(pl.col("routing") == "live", pl.col("kind").is_in(list(LOSSES))))
    about = " and ".join(live["dictionary"].unique(maintain_order=True))
    live = live.with_columns(pl.col("source").replace(called))
    live = live.with_columns(
        pl.col("source").alias("panel"),
        pl.col("kind").replace({kind: name for kind, (name, _) in LOSSES.items()}),
    )
    domains = sorted(live["domain"].unique(), key=lambda name: (name != "all", name))
    spliced = live.filter(pl.col("kind") == "spliced").drop_nulls("recovered_mean")
    title = "Ablation by the mean costs nothing, so nothing can be recovered"
    if len(spliced):
        worst = spliced.sort("recovered_mean", "panel", "domain").row(0, named=True)
        title = (
            f"At least {worst['recovered_mean']:.3f} of the loss is recovered against mean ablation "
            f"({worst['source']}, {worst['domain']})"
        )
    names = [name for name, _ in LOSSES.values()]
    y = alt.Y("domain:N", title=None, sort=domains)
    panels = alt.Row(
        "panel:N", title=None, sort=live["panel"].unique(maintain_order=True).to_list()
    )
    header = alt.Header(labelAngle=0, labelAnchor="start", labelOrient="top")
    blank = alt.Header(labelAngle=0, labelOrient="top", labelExpr="' '")  # it is said on the left
    height = 30 * len(domains)
    losses = (
        alt.Chart(live.select("panel", "domain", "kind", "cross_entropy"))
        .mark_point(filled=True, size=80, opacity=0.9)
        .encode(
            y,
            alt.X("cross_entropy:Q", title="cross-entropy (nats a token)")
            .scale(zero=False)
            .axis(tickCount=6),
            alt.Color("kind:N", title=None, sort=names)
            .scale(domain=names, range=[colour for _, colour in LOSSES.values()])
            .legend(orient="top"),
            alt.Shape("kind:N", title=None, sort=names).scale(domain=names),
            tooltip=["domain", "kind", alt.Tooltip("cross_entropy", format=".3f")],
        )
        .properties(width=size["width"], height=height)
        .facet(row=panels.header(header))
    )
    against = {"recovered_mean": "against mean ablation", "recovered_zero": "against zero ablation"}
    shares = (
        live.filter(pl.col("kind") == "spliced")
        .unpivot(list(against), index=["panel", "domain"], variable_name="ablation", value_name="share")
        .drop_nulls()
        .with_columns(pl.col("ablation").replace(against))
    )  # fmt: skip
    recovered = (
        alt.Chart(shares)
        .mark_point(filled=True, size=80)
        .encode(
            y.axis(labels=False),
            alt.X("share:Q", title="share of the loss recovered")
            .scale(zero=False)
            .axis(tickCount=4),
            alt.Color("ablation:N", title=None)
            .scale(domain=list(against.values()), range=[LOSSES["mean"][1], LOSSES["zero"][1]])
            .legend(orient="top"),
            alt.Shape("ablation:N", title=None).scale(domain=list(against.values())),
            tooltip=["domain", "ablation", alt.Tooltip("share", format=".4f")],
        )
        .properties(width=size["width"] // 2, height=height)
        .facet(row=panels.header(blank))
    )
    return (
        alt.hconcat(losses, recovered).resolve_scale(color="independent", shape="independent")
    ).properties(
        title=heading(title, int(1.5 * size["width"]), about), padding=room(live["domain"])
    )
