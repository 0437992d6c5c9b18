"""Tidy table -> Altair chart. Nothing else draws.

One theme for all: colours of Okabe and Ito, told apart by colour-blind readers and in print. Every
axis names its unit and every title says what is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import polars as pl

from moediff import artifact
from moediff.panel import EITHER

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CLASS_COLOURS = {
    "A-only": "#0072B2", "common": "#009E73", "B-only": "#D55E00", "tied": "#CC79A7",
    "live": "#009E73", "dead": "#999999",
}  # fmt: skip
Size = Mapping[str, int]


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
    for path in map(Path, paths):
        with artifact.whole(path) as partial:
            kind = path.suffix.removeprefix(".")
            options = {"inline": True} if kind == "html" else {}
            options |= {"scale_factor": 2} if kind == "png" else {}
            chart.save(str(partial), format=kind, **options)


def dictionary_label(comparison: str, member: str, recipe: str, seed: int | str) -> str:
    """What a dictionary is called in every chart and table: two never share a name."""
    return f"{comparison}: {member.replace('_', ' + ')}, {recipe}, seed {seed}"


def training_chart(history: pl.DataFrame, ngrams: pl.DataFrame, size: Size) -> alt.Chart:
    """Validation cross-entropy against tokens seen, one line a model, with the n-grams' levels.

    history: model, seed, tokens, cross_entropy. ngrams: model, cross_entropy.
    """
    last = history.filter(pl.col("tokens") == history["tokens"].max())
    best = last.sort("cross_entropy").row(0, named=True)
    trigram = ngrams.filter(pl.col("model") == "trigram")["cross_entropy"][0]
    gap = trigram - best["cross_entropy"]
    verdict = "below" if gap > 0 else "above"
    x = alt.X("tokens:Q", title="training tokens").axis(format="~s")
    lines = (
        alt.Chart(history)
        .mark_line(point=True)
        .encode(
            x,
            alt.Y("cross_entropy:Q", title="validation cross-entropy (nats a token)").scale(
                zero=False
            ),
            alt.Color("model:N", title="model"),
            alt.Detail("seed:N"),
            tooltip=["model", "seed", "tokens", alt.Tooltip("cross_entropy", format=".3f")],
        )
    )
    rules = (
        alt.Chart(ngrams)
        .mark_rule(strokeDash=[4, 4], color="#666")
        .encode(
            alt.Y("cross_entropy:Q"), tooltip=["model", alt.Tooltip("cross_entropy", format=".3f")]
        )
    )
    labels = rules.mark_text(align="left", dx=4, dy=-5, color="#666").encode(
        text="model:N", x=alt.value(0)
    )
    title = f"The best model ends {abs(gap):.2f} nats {verdict} a smoothed trigram"
    return (lines + rules + labels).properties(title=title, **size)


def fve_chart(rows: pl.DataFrame, size: Size) -> alt.Chart:
    """Variance explained by each dictionary, pooled, beside principal components of equal k.

    rows: comparison, member, recipe, seed, k, fve, baseline_mean, baseline_pca.
    """
    named = rows.select("comparison", "member", "recipe", "seed").iter_rows()
    labelled = rows.with_columns(pl.Series("dictionary", [dictionary_label(*row) for row in named]))
    kinds = {"fve": "dictionary, k active", "baseline_pca": "k principal components",
             "baseline_mean": "mean of the fit rows"}  # fmt: skip
    tidy = labelled.unpivot(
        list(kinds), index=["dictionary", "k"], variable_name="kind", value_name="value"
    ).with_columns(pl.col("kind").replace(kinds))
    worst = rows.with_columns((pl.col("fve") - pl.col("baseline_pca")).alias("gain"))["gain"].min()
    bars = (
        alt.Chart(tidy)
        .mark_bar()
        .encode(
            alt.Y("kind:N", title=None, sort=list(kinds.values())).axis(labels=False, ticks=False),
            alt.X("value:Q", title="fraction of validation variance explained").scale(zero=True),
            alt.Color("kind:N", title=None, sort=list(kinds.values())).legend(orient="top"),
            tooltip=["dictionary", "k", "kind", alt.Tooltip("value", format=".4f")],
        )
    )
    text = bars.mark_text(align="left", dx=3).encode(
        text=alt.Text("value:Q", format=".3f"), color=alt.value("#222")
    )
    title = f"Every dictionary explains at least {worst:+.3f} beyond principal components"
    if worst < 0:
        title = f"A dictionary falls {-worst:.3f} short of principal components"
    return (
        (bars + text)
        .properties(width=size["width"], height=66)
        .facet(row=alt.Row("dictionary:N", title=None).header(labelAngle=0, labelAlign="left"))
        .properties(title=title)
        .resolve_scale(y="independent")
    )


def relative_norm_chart(
    features: pl.DataFrame, bounds: tuple[float, float], size: Size
) -> alt.Chart:
    """Histogram of relative decoder norms of live, untied features, one panel a dictionary.

    features: dictionary, class, relative_norm.
    """
    live = features.filter(~pl.col("class").is_in(["dead", "tied"]))
    common = (live["class"] == "common").mean() if len(live) else 0.0
    bars = (
        alt.Chart(live)
        .mark_bar()
        .encode(
            alt.X(
                "relative_norm:Q",
                title="relative decoder norm (0: only A, the first model; 1: only B)",
            )
            .bin(step=0.025, extent=[0, 1])
            .scale(domain=[0, 1]),
            alt.Y("count():Q", title="features"),
            alt.Color("class:N", title="class").scale(
                domain=["A-only", "common", "B-only"],
                range=[CLASS_COLOURS[name] for name in ("A-only", "common", "B-only")],
            ),
            tooltip=["class", "count()"],
        )
        .properties(**size)
    )
    title = f"{100 * common:.0f} % of live untied features are common ({bounds[0]} to {bounds[1]})"
    return bars.facet(column=alt.Column("dictionary:N", title=None), title=title).resolve_scale(
        y="independent"
    )


def density_chart(features: pl.DataFrame, size: Size) -> alt.Chart:
    """How often features of each class fire: distribution of their density on a log axis.

    features: dictionary, class, density.
    """
    live = features.filter(pl.col("class") != "dead").with_columns(
        pl.col("density").log10().alias("log_density")
    )
    medians = live.group_by("class").agg(pl.col("density").median()).sort("density")
    order = medians["class"].to_list()
    title = "Features that fire most often: " + " > ".join(reversed(order))
    base = alt.Chart(live).encode(
        alt.Y("class:N", title=None, sort=list(CLASS_COLOURS)),
        alt.X("density:Q", title="density (share of validation rows on which it fires)")
        .scale(type="log")
        .axis(format="~e", values=[10.0**power for power in range(-6, 1)]),
    )
    marks = base.mark_tick(opacity=0.25, thickness=1).encode(
        alt.Color("class:N", legend=None).scale(
            domain=list(CLASS_COLOURS), range=list(CLASS_COLOURS.values())
        ),
        tooltip=["class", alt.Tooltip("density", format=".2e")],
    )
    middle = base.mark_point(shape="diamond", size=90, color="black", filled=True).encode(
        x=alt.X("median(density):Q"), tooltip=[alt.Tooltip("median(density)", format=".2e")]
    )
    return (
        (marks + middle)
        .properties(width=size["width"], height=150)
        .facet(
            column=alt.Column("dictionary:N", title=None),
            title=alt.TitleParams(
                title, subtitle="a tick is a feature, a diamond the median of its class"
            ),
        )
    )


def panel_chart(splits: pl.DataFrame, size: Size) -> alt.Chart:
    """What is one kind's own under the true labels and under every other, one row a statistic's side.

    splits: dictionary, side, share, features, true (one row a labelling and side).
    """
    own = splits.filter(pl.col("true"))
    others = splits.filter(~pl.col("true"))
    best = others.group_by("dictionary", "side").agg(pl.col("share").max().alias("most"))
    either = own.join(best, on=["dictionary", "side"]).filter(pl.col("side") == EITHER)
    above = int((either["share"] > either["most"]).sum())
    shares = ", ".join(f"{100 * share:.2f} %" for share in either["share"])
    title = f"Features of one kind of model alone carry {shares} of its variance"
    told = "more than" if above == len(either) else "not more than"
    if 0 < above < len(either):
        told = f"in {above} of {len(either)} dictionaries more than"
    base = alt.Chart(splits).encode(
        alt.X("share:Q", title="share of the models' variance that goes with the features"),
        alt.Y("side:N", title=None, sort=alt.SortField("true")),
        tooltip=["side", alt.Tooltip("share", format=".4f"), "features"],
    )
    null = base.transform_filter("!datum.true").mark_tick(thickness=1.5, color="#777", opacity=0.7)
    truth = base.transform_filter("datum.true").mark_point(
        shape="diamond", size=130, filled=True, color=COLOURS[1], opacity=1
    )
    return (
        (null + truth)
        .properties(width=size["width"], height=110)
        .facet(
            row=alt.Row("dictionary:N", title=None).header(
                labelAngle=0, labelAnchor="start", labelOrient="top"
            ),
            title=alt.TitleParams(
                title,
                subtitle=f"{told} under any other labels; a diamond: the true labels, a tick: others",
            ),
        )
    )
