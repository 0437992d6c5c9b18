"""Tidy table -> Altair chart. Nothing else draws.

One theme for all: colours of Okabe and Ito, told apart by colour-blind readers and in print. Every
axis names its unit and every title says what is seen.
"""

from __future__ import annotations

import math
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
# The same of an MoE and a dense model, whichever of them is A.
KIND_COLOURS = {
    "MoE-only": "#0072B2", "common": "#009E73", "dense-only": "#D55E00", "tied": "#CC79A7",
}  # fmt: skip
BIN = 0.025  # of relative norm
NU_MOST = 1.5  # a nu above it is drawn there
# Of variance left unexplained: the least that is drawn, and the ticks.
LEFT_LEAST = 1e-3
LEFT_TICKS = [2.0, 1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001]
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
    for path in map(Path, paths):
        with artifact.whole(path) as partial:
            kind = path.suffix.removeprefix(".")
            options = {"inline": True} if kind == "html" else {}
            options |= {"scale_factor": 2} if kind == "png" else {}
            chart.save(str(partial), format=kind, **options)


def dictionary_label(comparison: str, member: str, recipe: str, seed: int | str) -> str:
    """What a dictionary is called in every chart and table: two never share a name."""
    return f"{comparison}: {member.replace('_', ' + ')}, {recipe}, seed {seed}"


def _labelled(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with what their dictionary is called."""
    named = rows.select("comparison", "member", "recipe", "seed").iter_rows()
    return rows.with_columns(pl.Series("dictionary", [dictionary_label(*row) for row in named]))


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
    labelled = _labelled(rows)
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
    features: pl.DataFrame,
    bounds: tuple[float, float],
    size: Size,
    null: pl.DataFrame | None = None,
) -> alt.Chart:
    """Histogram of relative decoder norms of live, untied features, one panel a dictionary.

    features: dictionary, class, relative_norm. null: the same of dictionaries over two seeds of one
    kind, fitted by the same recipe; `dictionary` names the one whose null it is. Its histogram is drawn
    as a line, of as many features as the bars have.
    """
    live = _untied(features)
    title = f"{100 * _common(live):.0f} % of live untied features are common ({bounds[0]} to {bounds[1]})"
    bars = _histogram(live, ["dictionary", "class"])
    lines = bars.clear()
    subtitle = ""
    if null is not None:
        other = _untied(null)
        title += f", {100 * _common(other):.0f} % between two seeds of one kind"
        subtitle = "a line: two seeds of one kind, by the same recipe, as many features"
        lines = _null_lines(live, other)
    base = alt.Chart(pl.concat([bars, lines], how="diagonal"))
    x = alt.X(
        "low:Q", bin="binned", title="relative decoder norm (0: only A, the first model; 1: only B)"
    )
    y = alt.Y("features:Q", title="features")
    drawn = base.transform_filter("isValid(datum.class)").mark_bar().encode(
        x.scale(domain=[0, 1]),
        alt.X2("high:Q"),
        y.stack("zero"),
        alt.Color("class:N", title="class").scale(
            domain=["A-only", "common", "B-only"],
            range=[CLASS_COLOURS[name] for name in ("A-only", "common", "B-only")],
        ),
        tooltip=["class", "low", "high", "features"],
    )  # fmt: skip
    line = base.transform_filter("!isValid(datum.class)").mark_line(
        interpolate="step", color="black", strokeWidth=1.5
    ).encode(alt.X("middle:Q"), y)  # fmt: skip
    return (
        (drawn + line)
        .properties(**size)
        .facet(
            column=alt.Column("dictionary:N", title=None),
            title=alt.TitleParams(title, subtitle=subtitle),
        )
        .resolve_scale(y="independent")
    )


def _untied(features: pl.DataFrame) -> pl.DataFrame:
    """Features that are alive and were free to be one source's alone."""
    return features.filter(~pl.col("class").is_in(["dead", "tied"]))


def _common(live: pl.DataFrame) -> float:
    """Share of features that are common."""
    return (live["class"] == "common").mean() if len(live) else 0.0


def _histogram(live: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Features in each bin of relative norm: `by`, low, middle, high, features."""
    last = round(1 / BIN) - 1
    place = (pl.col("relative_norm") / BIN).floor().clip(0, last)
    counted = live.with_columns(place.alias("bin")).group_by(*by, "bin").agg(features=pl.len())
    edges = {"low": 0.0, "middle": 0.5, "high": 1.0}
    return counted.select(
        *by,
        *[((pl.col("bin") + more) * BIN).round(6).alias(name) for name, more in edges.items()],
        pl.col("features").cast(pl.Float64),
    ).sort(*by, "low")


def _null_lines(live: pl.DataFrame, null: pl.DataFrame) -> pl.DataFrame:
    """The histogram of every dictionary's null, of as many features as it has; each bin has a row."""
    every = pl.DataFrame({"relative_norm": [(n + 0.5) * BIN for n in range(round(1 / BIN))]})
    drawn = null.select("dictionary").unique().join(every, how="cross")
    found = _histogram(pl.concat([null.select(drawn.columns), drawn]), ["dictionary"])
    count = {  # of features, without the one more a bin
        name: table.group_by("dictionary").agg(pl.len().alias(name))
        for name, table in (("have", live), ("null", null))
    }
    scaled = found.join(count["have"], on="dictionary").join(count["null"], on="dictionary")
    features = (pl.col("features") - 1) * pl.col("have") / pl.col("null")
    return scaled.with_columns(features.alias("features")).drop("have", "null")


def density_chart(features: pl.DataFrame, size: Size) -> alt.Chart:
    """How often features of each class fire: distribution of their density on a log axis.

    features: dictionary, class, density.
    """
    live = features.filter(pl.col("class") != "dead").select("dictionary", "class", "density")
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


def nu_chart(features: pl.DataFrame, size: Size) -> alt.Chart:
    """Latent scaling: nu of the error against nu of the reconstruction, a point a feature.

    features: dictionary, class, relative_norm, nu_error, nu_reconstruction. One panel for each owner, the
    source where a feature's decoder norm is larger: nu is what the other source has of it.
    """
    values = ("relative_norm", "nu_error", "nu_reconstruction")
    of_b = pl.when(pl.col("relative_norm") > 0.5)
    direction = of_b.then(pl.lit("B's features in A")).otherwise(pl.lit("A's features in B"))
    known = (
        features.select("dictionary", "class", *values)
        .filter(pl.col("class") != "dead")
        .drop_nulls()
        .drop_nans()
        .with_columns(pl.concat_str(direction, pl.lit(", "), "dictionary").alias("panel"))
    )
    exclusive, common = (
        known.filter(pl.col("class").is_in(names))["nu_error"].median()
        for names in (["A-only", "B-only"], ["common"])
    )
    title = "There are no exclusive or no common features with a nu to compare"
    if exclusive is not None and common is not None:
        title = (
            f"The other model's error holds {exclusive:.2f} of an exclusive feature, {common:.2f} of a "
            "common one (median nu)"
        )
    scale = alt.Scale(domain=[0, NU_MOST], clamp=True)
    marks = (
        alt.Chart(known.drop("dictionary"))
        .mark_circle(size=22, opacity=0.45)
        .encode(
            alt.X("nu_error:Q", title="nu of the error", scale=scale).axis(tickCount=6),
            alt.Y("nu_reconstruction:Q", title="nu of the reconstruction", scale=scale),
            _class_colour(CLASS_COLOURS, known),
            tooltip=["class", *[alt.Tooltip(name, format=".3f") for name in values]],
        )
        .properties(**size)
    )
    return marks.facet(
        alt.Facet("panel:N", title=None).header(labelAnchor="start"),
        columns=2,
        title=alt.TitleParams(
            title,
            subtitle="near 0 on both axes: the other model lacks it; 1: it has as much as the owner "
            f"(above {NU_MOST}: drawn at the edge)",
        ),
    )


def _class_colour(colours: Mapping[str, str], table: pl.DataFrame) -> alt.Color:
    """One colour a class, always the same; those that the table has."""
    seen = [name for name in colours if name in table["class"].to_list()]
    return (
        alt.Color("class:N", title="class")
        .scale(domain=seen, range=[colours[name] for name in seen])
        .legend(symbolOpacity=1)
    )


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


def classes_chart(counts: pl.DataFrame, size: Size) -> alt.Chart:
    """Shares of live free features that are A's, common and B's, a bar for each kind of comparison.

    counts: comparison, class, features, and the error rates of the rule beside each, or null:
    false_exclusive (share that it calls exclusive where nothing differs) and missed_exclusive (share that
    it calls common where nothing is).
    """
    order = ["A-only", "common", "B-only"]
    total = pl.col("features").sum().over("comparison")
    wanted = counts.filter(pl.col("class").is_in(order)).with_columns(
        share=pl.col("features") / total,
        place=pl.col("class").replace_strict({name: n for n, name in enumerate(order)}),
    )
    wanted = wanted.filter(total > 0)
    own = (
        wanted.group_by("comparison", maintain_order=True)
        .agg(
            pl.col("share").filter(pl.col("class") != "common").sum().alias("exclusive"),
            pl.col("false_exclusive", "missed_exclusive").first(),
        )
        .with_columns(
            said=pl.struct("false_exclusive", "missed_exclusive").map_elements(
                lambda row: (
                    f"false {_percent(row['false_exclusive'])}, "
                    f"missed {_percent(row['missed_exclusive'])}"
                ),
                return_dtype=pl.String,
            )
        )
    )
    excess = (pl.col("exclusive") - pl.col("false_exclusive")).fill_null(-1.0)
    most = own.sort(excess, "exclusive").row(-1, named=True)
    false = "the rule's error is not known"
    if most["false_exclusive"] is not None:
        false = f"where nothing differs {_percent(most['false_exclusive'])} are"
    title = (
        f"{_percent(most['exclusive'])} of the features of {most['comparison']} are one model's alone; "
        f"{false}"
    )
    bars = (
        alt.Chart(wanted.select("comparison", "class", "features", "share", "place"))
        .mark_bar()
        .encode(
            alt.Y("comparison:N", title=None, sort=None),
            alt.X("share:Q", title="share of live free features")
            .axis(format="%")
            .scale(domain=[0, 1]),
            alt.Color("class:N", title=None, sort=order)
            .scale(domain=order, range=[CLASS_COLOURS[name] for name in order])
            .legend(orient="top"),
            alt.Order("place:Q"),
            tooltip=["comparison", "class", "features", alt.Tooltip("share", format=".1%")],
        )
    )
    text = (
        alt.Chart(own.select("comparison", "said"))
        .mark_text(align="left", dx=6, fontSize=11, color="#222")
        .encode(alt.Y("comparison:N", sort=None), x=alt.value(size["width"]), text="said:N")
    )
    return (bars + text).properties(
        width=size["width"],
        height=34 * len(own),
        title=alt.TitleParams(
            title,
            subtitle="false: exclusive where nothing differs; missed: common where nothing is",
        ),
    )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"


def affinity_chart(affinity: pl.DataFrame, size: Size) -> alt.Chart:
    """What firing tells of the expert chosen, within token id, by MoE layer and class of feature.

    affinity: layer, corrected (nats, of the feature's expert), class, one of KIND_COLOURS. Features of
    the dense model alone are the control: what they tell goes through the text.
    """
    known = affinity.select("layer", "class", "corrected").drop_nulls().drop_nans()
    found = (
        known.filter(pl.col("class").is_in(list(KIND_COLOURS)))
        .group_by("layer", "class")
        .agg(
            pl.col("corrected").median().alias("median"),
            pl.col("corrected").quantile(0.25, "linear").alias("low"),
            pl.col("corrected").quantile(0.75, "linear").alias("high"),
            features=pl.len(),
        )
        .sort("layer", "class")
    )
    medians = {(row["layer"], row["class"]): row["median"] for row in found.iter_rows(named=True)}
    both = [layer for layer in found["layer"].unique().sort()
            if {(layer, "MoE-only"), (layer, "dense-only")} <= medians.keys()]  # fmt: skip
    title = "No layer has features of both models alone to compare"
    if both:
        layer = max(both, key=lambda n: medians[n, "MoE-only"] - medians[n, "dense-only"])
        moe, dense = medians[layer, "MoE-only"], medians[layer, "dense-only"]
        largest = max(abs(moe), abs(dense))
        digits = max(2 - math.floor(math.log10(largest)), 0) if largest else 0
        title = (
            f"In layer {layer} firing of MoE-only features tells {moe:.{digits}f} nats of the expert, "
            f"of dense-only ones {dense:.{digits}f}"
        )
    seen = [name for name in KIND_COLOURS if name in found["class"].to_list()]
    base = alt.Chart(found).encode(
        alt.X("layer:O", title="MoE layer").axis(labelAngle=0),
        alt.XOffset("class:N", sort=seen),
        _class_colour(KIND_COLOURS, found),
        tooltip=[
            "layer", "class", "features",
            *[alt.Tooltip(name, format=".2e") for name in ("low", "median", "high")],
        ],
    )  # fmt: skip
    y = alt.Y("low:Q", title="information above chance (nats a row)").axis(format="~g")
    spread = base.mark_rule(strokeWidth=5, opacity=0.45).encode(y, alt.Y2("high:Q"))
    middle = base.mark_point(filled=True, size=70, opacity=1).encode(alt.Y("median:Q"))
    zero = alt.Chart(pl.DataFrame({"low": [0.0]})).mark_rule(color="#555").encode(alt.Y("low:Q"))
    return (zero + spread + middle).properties(
        title=alt.TitleParams(
            title,
            subtitle="within token id; a point: the median feature, a bar: quartiles; dense-only: the "
            "control",
        ),
        **size,
    )


# How a model is run, in order, by the kinds of `splicing`: name and colour.
LOSSES = {
    "clean": ("clean", "#009E73"), "spliced": ("spliced", "#0072B2"),
    "mean": ("mean-ablated", "#E69F00"), "zero": ("zero-ablated", "#D55E00"),
}  # fmt: skip


def domains_chart(rows: pl.DataFrame, size: Size) -> alt.Chart:
    """Loss of each source by domain: clean, spliced and ablated; and the share of it recovered.

    rows: comparison, member, recipe, seed, source, domain, routing, kind, cross_entropy, recovered_zero,
    recovered_mean, as splicing.parquet has them; routing is live here.
    """
    live = _labelled(rows.filter(pl.col("routing") == "live", pl.col("kind").is_in(list(LOSSES))))
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
