"""How few experts carry the routing and the prediction of one MoE (MoE Lens, 2603.05806)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from moediff.core.terms import ALL
from moediff.report.charts import Tables
from moediff.report.theme import COLOURS, Size, heading

EVEN, MORE, LESS = "#f7f7f7", "#B2182B", "#2166AC"  # of a share: the even one, above and below it
# Readings of the lens as the chart calls them: the heaviest expert, and its controls.
READINGS = {
    "heaviest": "heaviest", "second": "second", "random chosen": "any of the chosen",
    "random unchosen": "one not chosen",
}  # fmt: skip
# The same of `ablation.KINDS`, in an expression of Vega.
LONE = (
    "{'keep': 'heaviest', 'second': 'second', 'random chosen': 'any chosen', 'random any': 'any'}"
    "[datum.value]"
)


def specialisation(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of the first MoE of the study."""
    (shares,), (record,) = tables["shares"], tables["moe_record"]
    return specialisation_chart(shares, record["even_share"], _name(settings), size)


def specialisation_chart(shares: pl.DataFrame, even: float, name: str, size: Size) -> alt.Chart:
    """How often tokens of each domain use each expert of each layer; white is the even share.

    shares: layer, domain, expert, share, as `concentration.layer_tables` gives them.
    """
    found = shares.select("layer", "domain", "expert", "share").with_columns(
        times=pl.col("share") / even
    )
    domains = found["domain"].unique(maintain_order=True).to_list()
    top = found.sort("share", "layer", "expert", descending=[True, False, False]).row(0, named=True)
    most = max(float(found["share"].max() or even), 2 * even)
    title = (
        f"The busiest expert of {name}, {top['expert']} of layer {top['layer']}, is used by "
        f"{100 * top['share']:.0f} % of tokens ({top['domain']}); even would be {100 * even:.0f} %"
    )
    return (
        alt.Chart(found)
        .mark_rect()
        .encode(
            alt.X("expert:O", title="expert").axis(labelAngle=0, labelOverlap=True),
            alt.Y("layer:O", title="layer", sort="descending"),
            alt.Color("share:Q", title="share of tokens")
            .scale(domain=[0, even, most], range=[LESS, EVEN, MORE], interpolate="rgb")
            .legend(format=".0%"),
            tooltip=["domain", "layer", "expert", alt.Tooltip("share", format=".3f"),
                     alt.Tooltip("times", format=".2f", title="times the even share")],
        )
        .properties(width=size["width"], height=alt.Step(18))
        .facet(
            row=alt.Row("domain:N", title=None, sort=domains).header(
                labelAngle=0, labelAnchor="start", labelOrient="top", labelPadding=2
            ),
            spacing=8,
            title=heading(title, size["width"], "white: as often as if routing were even"),
        )
    )  # fmt: skip


def expert_cosine(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of the first MoE of the study."""
    (table,) = tables["lens"]
    return expert_cosine_chart(table, _name(settings), size)


def expert_cosine_chart(table: pl.DataFrame, name: str, size: Size) -> alt.Chart:
    """By layer the cosine of one expert's output with that of all, with the stream and without.

    table: layer, domain, term, experts, stream, weights, cosine, as `lens.expert_lens` gives them.
    """
    beside = {"none": "experts alone", "stream": "with the stream that both share"}
    found = (
        table.filter(
            pl.col("domain") == ALL,
            pl.col("experts") == 1,
            pl.col("weights") == "routed",
            pl.col("term").is_in(list(READINGS)),
            pl.col("stream").is_in(list(beside)),
        )
        .with_columns(pl.col("term").replace(READINGS), pl.col("stream").replace(beside))
        .select("layer", "term", "stream", "cosine", "tokens")
        .sort("stream", "term", "layer")
    )
    heaviest = found.filter(pl.col("term") == READINGS["heaviest"])
    means = dict(heaviest.group_by("stream").agg(pl.col("cosine").mean()).iter_rows())
    title = (
        f"The heaviest expert of {name} alone has a cosine of {means[beside['none']]:.2f} with all "
        f"experts of a token; with the stream added to both, {means[beside['stream']]:.2f}"
    )
    order = [READINGS[term] for term in READINGS if READINGS[term] in found["term"].to_list()]
    colour = alt.Color("term:N", title="expert", sort=order).scale(
        domain=order, range=list(COLOURS[: len(order)])
    )
    base = alt.Chart(found).encode(
        alt.X("layer:O", title="MoE layer").axis(labelAngle=0),
        alt.Y("cosine:Q", title="cosine"),
        colour,
        tooltip=["layer", "term", "stream", "tokens", alt.Tooltip("cosine", format=".4f")],
    )
    return (
        (base.mark_line(strokeWidth=2) + base.mark_point(filled=True, size=60))
        .properties(width=size["width"] // 2 - 20, height=size["height"])
        .facet(
            column=alt.Column("stream:N", title=None, sort=list(beside.values())),
            title=heading(
                title,
                size["width"],
                "means over layers; what is added to both makes any two alike",
                "any of the chosen, and one not chosen: drawn at random",
            ),
        )
    )


def fewer_experts(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of the first MoE of the study."""
    (table,) = tables["fewer_experts"]
    return fewer_experts_chart(table, _name(settings), size)


def fewer_experts_chart(table: pl.DataFrame, name: str, size: Size) -> alt.Chart:
    """Perplexity by domain with k experts a token, above that with all; one other expert as control.

    table: kind, k, weights, layer, domain, ratio, as `ablation.fewer_experts` gives them.
    """
    every = table.filter(pl.col("layer").is_null(), pl.col("weights") == "routed").with_columns(
        more=pl.col("ratio") - 1
    )
    kept = every.filter(pl.col("kind") == "keep")
    one = every.filter(pl.col("k") == 1)
    used = int(kept["k"].max() or 1)
    lowest, highest = _range(one.filter(pl.col("kind") == "keep", pl.col("domain") != ALL)["more"])
    title = (
        f"With one expert a token instead of {used} the perplexity of {name} is {lowest} to {highest} % "
        "higher, by domain"
    )
    domains = kept["domain"].unique(maintain_order=True).to_list()
    colour = alt.Color("domain:N", sort=domains).scale(
        domain=domains, range=[COLOURS[-1], *COLOURS[: len(domains) - 1]]
    )
    y = alt.Y("more:Q", title="perplexity above that of all experts").axis(format="+.1~%")
    tips = ["domain", "kind", "k", "tokens", alt.Tooltip("ratio", format=".4f"),
            alt.Tooltip("cost", format=".4f", title="nats a token"), "cost_low:Q", "cost_high:Q"]  # fmt: skip
    base = alt.Chart(kept).encode(
        alt.X("k:O", title="experts a token").axis(labelAngle=0), y, colour
    )
    lines = base.mark_line(strokeWidth=2) + base.mark_point(filled=True, size=60).encode(
        tooltip=tips
    )
    others = (
        alt.Chart(one)
        .mark_tick(thickness=3, size=26)
        .encode(
            alt.X("kind:N", title="the one expert", sort=["keep", "second", "random chosen", "random any"])
            .axis(labelAngle=0, labelExpr=LONE),
            y, colour, tooltip=tips,
        )
    )  # fmt: skip
    half = {"width": size["width"] // 2 - 20, "height": size["height"]}
    return alt.hconcat(lines.properties(**half), others.properties(**half)).properties(
        title=heading(
            title, size["width"], "gates as routed; right: others in the heaviest one's place"
        )
    )


def pruning(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.Chart:
    """Of the first MoE of the study."""
    (table,) = tables["prune"]
    return pruning_chart(table, _name(settings), size)


def pruning_chart(table: pl.DataFrame, name: str, size: Size) -> alt.Chart:
    """Perplexity against the share of experts kept, by the score that chose them, in and out of the domain.

    table: chosen_on, score, kept, domain, ratio, as `pruning.prune_costs` gives them.
    """
    whole = table.filter(pl.col("score").is_null())["kept"][0]
    tried = table.filter(pl.col("score").is_not_null()).with_columns(more=pl.col("ratio") - 1)
    lone = pl.col("chosen_on") != ALL
    places = (
        pl.when(~lone & (pl.col("domain") == ALL)).then(pl.lit("by all text, on all"))
        .when(lone & (pl.col("chosen_on") == pl.col("domain"))).then(pl.lit("by one domain, on it"))
        .when(lone & (pl.col("domain") != ALL)).then(pl.lit("by one domain, on others"))
    )  # fmt: skip
    found = (
        tried.with_columns(place=places)
        .drop_nulls("place")
        .group_by("place", "score", "kept")
        .agg(pl.col("more").mean(), domains=pl.len())
        .sort("place", "score", "kept")
    )
    plain = found.filter(pl.col("place") == "by all text, on all")
    best = (
        plain.filter(pl.col("kept") == plain["kept"].min()).sort("more", "score").row(0, named=True)
    )
    title = (
        f"With {best['kept']} of {whole} experts a layer {name} loses least by {best['score']}: "
        f"{100 * best['more']:+.1f} % of perplexity"
    )
    base = alt.Chart(found).encode(
        alt.X("kept:O", title="experts kept", sort="descending").axis(labelAngle=0),
        alt.Y("more:Q", title="perplexity above that of the whole model").axis(format="+.1~%"),
        alt.Color("score:N", title="chosen by"),
        tooltip=["place", "score", "kept", "domains", alt.Tooltip("more", format="+.4f")],
    )
    order = ("by all text, on all", "by one domain, on it", "by one domain, on others")
    columns = [name for name in order if name in found["place"].to_list()]
    width = size["width"] // len(columns) - 20
    return (
        (base.mark_line(strokeWidth=2) + base.mark_point(filled=True, size=50))
        .properties(width=width, height=size["height"])
        .facet(
            column=alt.Column("place:N", title=None, sort=columns),
            title=heading(
                title,
                size["width"],
                "experts chosen by one text and tried on another; means over domains",
                "nothing was trained afterwards",
            ),
        )
    )


def _name(settings: Mapping[str, Any]) -> str:
    model, seed = settings["moe"]
    return f"{model}.{seed}"


def _range(values: pl.Series) -> tuple[str, str]:
    """The lowest and the highest of some shares, in per cent."""
    low, high = (100 * float(value or 0) for value in (values.min(), values.max()))
    return f"{low:.1f}", f"{high:.1f}"
