"""The kinds of a panel among all splits of its models, and the models on a map of their distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from moediff.analysis.permanova import positions
from moediff.claims.verdicts import ALPHA
from moediff.config.layout import Member
from moediff.report.charts import Tables
from moediff.report.labels import label_of, percent
from moediff.report.theme import COLOURS, Size, heading

Panel = Mapping[str, Any]  # of kinds.json
STEP = 1e-3  # of R2: other splits this close to each other are one tick
MARGIN = 1.25  # of a map, beyond the model that is farthest out
BESIDE = 12  # pixels from a model to its seed
UNKNOWN = "No panel has models that can be compared: in some, no feature explains anything"


def splits(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.TopLevelMixin:
    """Of every panel."""
    return splits_chart({label_of(one): one for one in _known(tables)}, size)


def model_map(tables: Tables, settings: Mapping[str, Any], size: Size) -> alt.TopLevelMixin:
    """Of every panel."""
    return map_chart(_known(tables), size)


def splits_chart(panels: Mapping[str, Panel], size: Size) -> alt.TopLevelMixin:
    """R2 of the true split of each panel's models into kinds, among that of every other split.

    `panels` by what each is called.
    """
    if not panels:
        return _nothing(size)
    rows = pl.DataFrame(
        [
            {"dictionary": f"{name}: {_result(one)}", "r2": value, "true": number == 0}
            for name, one in panels.items()
            for number, value in enumerate(_ticks(one["values"]["r2"]))
        ]
    )
    base = alt.Chart(rows).encode(
        alt.X("r2:Q", title="R2: share of squared distance between halves")
        .axis(format=".1~%", tickCount=6)
        .scale(zero=False),
        tooltip=[alt.Tooltip("r2", format=".4f")],
    )
    null = base.transform_filter("!datum.true").mark_tick(thickness=1.5, color="#777", opacity=0.7)
    truth = base.transform_filter("datum.true").mark_point(
        shape="diamond", size=130, filled=True, color=COLOURS[1], opacity=1
    )
    names = rows["dictionary"].unique(maintain_order=True).to_list()
    told = "diamond: the true kinds, ticks: every other way to split the same models"
    return (
        (null + truth)
        .properties(width=size["width"], height=40)
        .facet(
            row=alt.Row("dictionary:N", title=None, sort=names).header(
                labelAngle=0, labelAnchor="start", labelOrient="top", labelPadding=2, labelLimit=0
            ),
            title=heading(_splits_title(list(panels.values())), size["width"], told),
        )
        .properties(padding={"left": 5, "top": 5, "right": 30, "bottom": 5})
    )


def map_chart(panels: Sequence[Panel], size: Size) -> alt.TopLevelMixin:
    """The models of each panel by classical scaling of their squared distances: both axes to one scale."""
    if not panels:
        return _nothing(size)
    colour = list(dict.fromkeys(kind for one in panels for kind in one["kinds"]))
    told = "number: the model's seed; distance: Hellinger, between shares of explained variance by feature"
    return (
        alt.concat(*(_one_map(one, colour, size) for one in panels), columns=2)
        .resolve_scale(color="shared")
        .properties(
            title=heading(_map_title(panels), size["width"] * min(len(panels), 2), told),
            padding={"left": 5, "top": 5, "right": 30, "bottom": 5},
        )
    )


def _one_map(one: Panel, kinds: Sequence[str], size: Size) -> alt.LayerChart:
    places, shown = positions(np.array(one["squared_distances"]))
    far, side = MARGIN * float(np.abs(places).max()) or 1.0, size["height"]
    named = places + 2 * far / side * BESIDE * _away(places)
    kind_of = {name: kind for kind, names in one["kinds"].items() for name in names}
    rows = pl.DataFrame(
        [
            {"model": name, "kind": kind_of[name], "seed": Member.parse("", name).sources[0].seed}
            | dict(zip(("x", "y", "seed_x", "seed_y"), (*place, *beside), strict=True))
            for name, place, beside in zip(
                one["sources"], places.tolist(), named.tolist(), strict=True
            )
        ]
    )

    def along(channel: type, name: str, share: float) -> alt.X | alt.Y:
        title = f"{percent(share)} of squared distance"
        return channel(f"{name}:Q", title=title).scale(domain=[-far, far]).axis(tickCount=5)

    base = alt.Chart(rows).encode(
        alt.Color("kind:N", title="kind", sort=list(kinds)).scale(domain=list(kinds)),
        tooltip=["model", alt.Tooltip("x", format=".4f"), alt.Tooltip("y", format=".4f")],
    )
    points = base.mark_circle(size=90, opacity=0.85).encode(
        along(alt.X, "x", shown[0]), along(alt.Y, "y", shown[1])
    )
    seeds = base.mark_text(fontSize=11).encode(
        along(alt.X, "seed_x", shown[0]), along(alt.Y, "seed_y", shown[1]), text="seed:N"
    )
    subtitle = f"the two axes show {percent(shown.sum())} of squared distance"
    return (points + seeds).properties(
        width=side, height=side, title=heading(label_of(one), side, subtitle)
    )


def _away(places: np.ndarray) -> np.ndarray:
    """Of each place [S, 2] the direction away from its nearest neighbour; of two at one place, left and
    right."""
    apart = places[:, None] - places[None]  # [S, S, 2]
    distance = np.sqrt((apart**2).sum(2))
    np.fill_diagonal(distance, np.inf)
    nearest, number = distance.argmin(1), np.arange(len(places))
    found = apart[number, nearest]
    one_place = distance[number, nearest] == 0
    found[one_place] = np.stack([np.where(number > nearest, 1, -1), 0 * number], 1)[one_place]
    return found / np.sqrt((found**2).sum(1, keepdims=True))


def _known(tables: Tables) -> list[Panel]:
    """Panels whose models can be compared."""
    (found,) = tables["kinds"]
    return [one for one in found["panels"] if not one["unknown"]]


def _nothing(size: Size) -> alt.Chart:
    title = heading(UNKNOWN, size["width"])
    return alt.Chart(pl.DataFrame({"x": []})).mark_point().properties(title=title)


def _ticks(values: Sequence[float]) -> list[float]:
    """The true split's value, then those of the others, each once where they lie within STEP."""
    others = {round(value / STEP): value for value in values[1:]}
    return [values[0], *others.values()]


def _row(one: Panel, statistic: str = "r2") -> Mapping[str, Any]:
    (found,) = (row for row in one["judged"] if row["statistic"] == statistic)
    return found


def _result(one: Panel) -> str:
    row = _row(one)
    return f"R2 {row['observed']:.3f}, p {row['rank']}/{row['others'] + 1}"


def _splits_title(panels: Sequence[Panel]) -> str:
    """Whether the true split is the first; of several panels, only those with splits enough count."""
    if len(panels) == 1:
        row = _row(panels[0])
        told = "more than" if row["rank"] == 1 else "not more than"
        return f"The kinds divide the models {told} any of {row['others']} other splits: {_result(panels[0])}"
    telling = [one for one in panels if _row(one)["smallest_p"] <= ALPHA]
    first = sum(_row(one)["rank"] == 1 for one in telling)
    few = len(panels) - len(telling)
    return (
        f"The kinds divide the models more than any other split in {first} of {len(telling)} panels"
        + (f"; too few models to tell in {few} more" if few else "")
    )


def _map_title(panels: Sequence[Panel]) -> str:
    """How much farther apart models of two kinds lie than models of one."""
    found = [one["between_over_within"] for one in panels]
    ratios = sorted(ratio for ratio in found if ratio is not None)
    if not ratios:
        return "Models of one kind lie at one place"
    low, high = (f"{ratio:.2f}" for ratio in (ratios[0], ratios[-1]))
    times = low if low == high else f"{low} to {high}"
    return f"Models of different kinds lie {times} times as far apart as models of one kind"
