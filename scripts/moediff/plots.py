"""Charts of models and of whole dictionaries: tidy table -> Altair chart.

Every axis names its unit and every title says what is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import polars as pl

from moediff.drawing import COLOURS, Size, labelled
from moediff.panel import EITHER
from moediff.statistics import ALPHA

# Of variance left unexplained: the least that is drawn, and the ticks.
LEFT_LEAST = 1e-3
LEFT_TICKS = [2.0, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001]
# How a model is run, in order, by the kinds of `splicing`: name and colour.
LOSSES = {
    "clean": ("clean", "#009E73"), "spliced": ("spliced", "#0072B2"),
    "mean": ("mean-ablated", "#E69F00"), "zero": ("zero-ablated", "#D55E00"),
}  # fmt: skip


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
    named = labelled(rows)
    kinds = {"fve": "dictionary, k active", "baseline_pca": "k principal components",
             "baseline_mean": "mean of the fit rows"}  # fmt: skip
    tidy = named.unpivot(
        list(kinds), index=["dictionary", "k"], variable_name="kind", value_name="value"
    ).with_columns(pl.col("kind").replace(kinds))
    worst = rows.with_columns((pl.col("fve") - pl.col("baseline_pca")).alias("gain"))["gain"].min()
    shown = alt.Chart(tidy).encode(
        alt.Y("dictionary:N", title=None, sort=named["dictionary"].to_list()).axis(
            labelLimit=400, grid=True
        ),
        alt.X("value:Q", title="fraction of validation variance explained").scale(zero=True),
        tooltip=["dictionary", "k", "kind", alt.Tooltip("value", format=".4f")],
    )
    points = shown.mark_point(size=60, filled=True, opacity=1).encode(
        alt.Color("kind:N", title=None).scale(domain=list(kinds.values())).legend(orient="top"),
        alt.Shape("kind:N", title=None).scale(domain=list(kinds.values())),
    )
    text = (
        shown.transform_filter(alt.datum.kind != kinds["baseline_mean"])
        .mark_text(align="left", dx=7, color="#222")
        .encode(text=alt.Text("value:Q", format=".3f"))
    )
    title = f"Every dictionary explains at least {worst:+.3f} beyond principal components"
    if worst < 0:
        title = f"A dictionary falls {-worst:.3f} short of principal components"
    return (points + text).properties(title=title, width=size["width"], height={"step": 18})


def frontier_chart(rows: pl.DataFrame, size: Size) -> alt.Chart:
    """Variance explained against features active, of the dictionaries of one comparison.

    rows: comparison, member, recipe, seed, k, l0, fve, baseline_mean, baseline_pca (pooled). What is left
    unexplained is on a log axis, since dictionaries differ there; ticks say what is explained. A recipe's
    name stands beside the mean of its dictionaries.
    """
    best = rows.sort("fve", "recipe").row(-1, named=True)
    gain = best["fve"] - best["baseline_pca"]
    title = (
        f"{best['recipe']} explains most, {best['fve']:.3f} at L0 {best['l0']:.1f}: {gain:+.3f} "
        f"beyond {best['k']} principal components"
    )
    left = (1 - pl.col("fve")).clip(LEFT_LEAST).alias("left")
    each = rows.select("recipe", "member", "seed", "l0", "fve", left)
    pca = rows.group_by("k").agg(pl.col("baseline_pca").mean().alias("fve")).sort("k")
    pca = pca.select(pl.col("k").cast(pl.Float64).alias("l0"), left)
    level = 1 - rows["baseline_mean"].mean()
    every = [*each["left"], *pca["left"], level]
    bottom, top = 1.15 * max(every), 0.8 * min(every)  # of the picture
    span = [0.6 * min(rows["l0"].min(), pca["l0"][0]), 3 * max(rows["l0"].max(), pca["l0"][-1])]
    x = alt.X("l0:Q", title="features active on a row (L0); components of the PCA").scale(
        type="log", domain=span, nice=False
    )
    y = (
        alt.Y("left:Q", title="fraction of validation variance explained")
        .scale(type="log", domain=[top, bottom], nice=False, reverse=True)
        .axis(values=LEFT_TICKS, labelExpr="format(1 - datum.value, '.3~f')")
    )
    colour = alt.Color("recipe:N", legend=None)
    tooltip = ["recipe", "member", "seed", "l0", "fve"]
    points = alt.Chart(each).mark_point(filled=True, size=45, opacity=0.7)
    # A column: recipes of about the same L0, whose names would lie over each other.
    apart = (pl.col("l0") > 1.3 * pl.col("l0").shift(1)).fill_null(False).cum_sum()
    means = each.group_by("recipe").agg(pl.col("l0", "left").mean()).sort("l0", "recipe")
    least = 13 * math.log(bottom / top) / size["height"]  # the height of a name
    named = pl.concat(
        column.sort("left", descending=True).with_columns(
            pl.Series("place", _apart(sorted(-column["left"].log()), least, -math.log(top))),
            pl.lit(1.15 * column["l0"].max()).alias("edge"),
        )
        for column in means.with_columns(apart.alias("column")).partition_by("column")
    ).with_columns((-pl.col("place")).exp())
    names = alt.Chart(named.drop("column"))
    text = names.mark_text(align="left", dx=3, fontSize=11, color="#222")
    leader = names.mark_rule(opacity=0.7).encode(
        alt.X("l0:Q"), alt.Y("left:Q"), colour, alt.X2("edge:Q"), alt.Y2("place:Q")
    )
    grey = {"color": "#555", "fontSize": 11, "align": "left"}
    base = alt.Chart(pca).encode(x, y)
    line = base.mark_line(color="#555", strokeDash=[4, 3], point={"color": "#555", "size": 25})
    last = base.transform_filter(f"datum.l0 == {pca['l0'][-1]}").mark_text(dx=7, dy=4, **grey)
    mean = alt.Chart(pl.DataFrame({"left": [level], "l0": [span[0]]})).encode(y)
    return (
        mean.mark_rule(color="#555")
        + mean.mark_text(dx=6, dy=-8, **grey).encode(x, text=alt.value("mean of the fit rows"))
        + line
        + last.encode(text=alt.value("k principal components"))
        + leader
        + points.encode(x, y, colour, tooltip=tooltip)
        + text.encode(alt.X("edge:Q"), alt.Y("place:Q"), text="recipe:N")
    ).properties(title=title, **size)


def _apart(values: Sequence[float], least: float, highest: float) -> list[float]:
    """Rising values, moved so that neighbours are `least` apart and none is above `highest`."""
    found: list[float] = []
    for value in values:
        found.append(max(value, found[-1] + least) if found else value)
    for place in reversed(range(len(found))):
        found[place] = min(found[place], highest)
        highest = found[place] - least
    return found


def panel_chart(splits: pl.DataFrame, size: Size) -> alt.Chart:
    """What is one kind's own under the true labels and under every other, one row a statistic's side.

    splits: dictionary, side, share, features, true (one row a labelling and side), and low and high,
    the interval of a share under the true labels, or null.
    """
    names = splits["dictionary"].unique(maintain_order=True).to_list()
    said = "share of the models' variance that goes with the features"
    base = alt.Chart(splits).encode(
        alt.X("share:Q", title=said).axis(format=".1~%", tickCount=6),
        alt.Y("side:N", title=None, sort=alt.SortField("true")),
        tooltip=["side", alt.Tooltip("share", format=".3%"), "features"],
    )
    null = base.transform_filter("!datum.true").mark_tick(thickness=1.5, color="#777", opacity=0.7)
    truth = base.transform_filter("datum.true")
    point = truth.mark_point(shape="diamond", size=130, filled=True, color=COLOURS[1], opacity=1)
    interval = truth.mark_rule(color=COLOURS[1], strokeWidth=2).encode(
        alt.X("low:Q", title=said), alt.X2("high:Q")
    )
    return (
        (null + interval + point)
        .properties(width=size["width"], height=110)
        .facet(
            row=alt.Row("dictionary:N", title=None, sort=names).header(
                labelAngle=0, labelAnchor="start", labelOrient="top", labelPadding=2
            ),
            title=alt.TitleParams(
                _panel_title(splits),
                subtitle="diamond: the true labels, line: interval over documents, ticks: other labels",
            ),
        )
        .resolve_scale(y="independent")
    )


def _panel_title(splits: pl.DataFrame) -> str:
    """What the panels say of either kind; of several, only those with labels enough for p of ALPHA count."""
    either = splits.filter(pl.col("side") == EITHER)
    others = either.filter(~pl.col("true")).group_by("dictionary").agg(
        pl.col("share").max().alias("most"), pl.len().alias("others")
    )  # fmt: skip
    found = either.filter(pl.col("true")).join(others, on="dictionary")
    found = found.with_columns(above=pl.col("share") > pl.col("most"))
    if len(found) == 1:
        share, many, above = found.select("share", "others", "above").row(0)
        told = "more than" if above else "not more than"
        return (
            f"Features of one kind alone carry {100 * share:.2f} % of its variance, "
            f"{told} under any of {many} other labels"
        )
    telling = found.filter(1 / (pl.col("others") + 1) <= ALPHA)
    few = len(found) - len(telling)
    return (
        "Features of one kind alone carry more than under any other labels in "
        f"{telling['above'].sum()} of {len(telling)} panels"
        + (f"; too few models to tell in {few} more" if few else "")
    )


def domains_chart(rows: pl.DataFrame, size: Size) -> alt.Chart:
    """Loss of each source by domain: clean, spliced and ablated; and the share of it recovered.

    rows: comparison, member, recipe, seed, source, domain, routing, kind, cross_entropy, recovered_zero,
    recovered_mean, as splicing.parquet has them; routing is live here.
    """
    live = labelled(rows.filter(pl.col("routing") == "live", pl.col("kind").is_in(list(LOSSES))))
    panel = pl.concat_str("source", pl.lit(" in "), "dictionary").alias("panel")
    live = live.with_columns(
        panel, pl.col("kind").replace({kind: name for kind, (name, _) in LOSSES.items()})
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
            alt.X("cross_entropy:Q", title="cross-entropy (nats a token)").scale(zero=False),
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
            alt.X("share:Q", title="share of the loss recovered").scale(zero=False),
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
    ).properties(title=title)


def planted_chart(table: pl.DataFrame, size: Size) -> alt.Chart:
    """Precision against recall of every method at its threshold in use, one panel a factor.

    table: factor, level, part, method, in_use, precision, recall, f1; means over the seeds for scoring.
    """
    shown = table.filter(pl.col("part") == "score", pl.col("in_use"))
    means = (
        shown.group_by("factor", "level", "method", maintain_order=True)
        .agg(pl.col("precision", "recall").mean())
        .drop_nulls()  # nothing attributed, or nothing planted
    )
    f1 = shown.group_by("method").agg(pl.col("f1").mean()).drop_nulls().sort("f1", "method")
    (best, high), (worst, low) = (f1.row(place) for place in (-1, 0))
    axis = alt.Scale(domain=[0, 1])
    return (
        alt.Chart(means)
        .mark_point(filled=True, size=60, opacity=0.8)
        .encode(
            alt.X("recall:Q", title="planted unique features recovered").scale(axis),
            alt.Y("precision:Q", title="unique attributions that are right").scale(axis),
            alt.Color("method:N", title="method"),
            alt.Shape("level:N", title="level"),
            tooltip=[
                "method",
                "factor",
                "level",
                alt.Tooltip("precision", format=".2f"),
                alt.Tooltip("recall", format=".2f"),
            ],
        )
        .properties(width=size["width"] // 2, height=size["height"])
        .facet(alt.Facet("factor:N", title=None, sort=None), columns=3)
        .resolve_scale(shape="independent")
        .properties(
            title=f"Of planted unique features {best} finds most (F1 {high:.2f}), {worst} least ({low:.2f})"
        )
    )
