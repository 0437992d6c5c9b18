"""Charts of a panel: what one kind alone has, and how well kinds divide the models."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from charted import SIZE, data_with, drawn, title_of
from moediff.analysis import kinds
from moediff.analysis.panel import EITHER, drawn_rows
from moediff.analysis.permanova import positions
from moediff.report.charts import draw
from moediff.report.charts.kinds import _away
from moediff.report.charts.panel import panel_chart
from usages import explained

# --- panels ---------------------------------------------------------------------------------------


def panel_rows(
    dictionary: str, true: float, interval: list[float] | None = None, others: int = 20
) -> pl.DataFrame:
    """Labellings of each side: the true one has the share `true`, the others 0.2 or less."""
    rows = [
        {"side": side, "share": share, "features": 1, "true": share == true}
        for side in ("moe", "dense", EITHER)
        for share in (true, *(0.2 / (1 + other) for other in range(others)))
    ]
    judged = [{"kind": "moe", "statistic": "share", "interval": interval},
              {"kind": "moe", "statistic": "features"}]  # fmt: skip
    return drawn_rows(dictionary, rows, judged)


def test_a_panel_stands_beside_its_other_labels_and_its_interval() -> None:
    high, low = panel_rows("p", 0.3, [0.25, 0.35]), panel_rows("q", 0.15)
    known = high.filter(pl.col("low").is_not_null())
    assert known.select("side", "true", "low", "high").rows() == [("moe", True, 0.25, 0.35)]
    assert title_of(drawn(panel_chart(high, SIZE))) == (
        "Features of one kind alone carry 30.00 % of its variance, "
        "more than under any of 20 other labels"
    )
    assert "not more than" in title_of(drawn(panel_chart(low, SIZE)))
    both = drawn(panel_chart(pl.concat([low, high]), SIZE))
    assert title_of(both).endswith("in 1 of 2 panels")
    assert both["facet"]["row"]["sort"] == ["q", "p"]  # as they were given
    assert both["resolve"] == {"scale": {"y": "independent"}}
    small = panel_rows("r", 0.3, others=2)  # p of 1/3 at best
    every = title_of(drawn(panel_chart(pl.concat([low, high, small]), SIZE)))
    assert every.endswith("in 1 of 2 panels; too few models to tell in 1 more")


# --- kinds ----------------------------------------------------------------------------------------


def graded(
    name: str, sizes: tuple[int, int] = (4, 4), times: float = 9, kinds_=("moe", "dense")
) -> dict:
    """A panel of kinds.json whose first kind has a third of its features `times` stronger."""
    named = {
        kind: [f"{kind}.{n}" for n in range(size)] for kind, size in zip(kinds_, sizes, strict=True)
    }
    sources = [source for names in named.values() for source in names]
    told = explained(np.random.default_rng(0), 300, sizes, times, 1 / 3)
    about = {"comparison": name, "member": "_".join(sources), "recipe": "r", "seed": 0}
    return about | {"kinds": named} | kinds.graded_usage(told, sources, named)


def drawn_of(chart: str, *panels: dict) -> dict:
    return drawn(draw(chart, {"kinds": [{"panels": list(panels)}]}, {}, SIZE))


def test_the_true_split_stands_among_all_others() -> None:
    one = graded("p")
    chart = drawn_of("splits", one)
    (row,) = (row for row in one["judged"] if row["statistic"] == "r2")
    assert title_of(chart) == (
        "The kinds divide the models more than any of 34 other splits: "
        f"R2 {row['observed']:.3f}, p 1/35"
    )
    ticks = data_with(chart, "r2")
    assert ticks.filter("true")["r2"].to_list() == [one["values"]["r2"][0]]
    others = {round(value, 3) for value in one["values"]["r2"][1:]}
    assert {round(value, 3) for value in ticks.filter(~pl.col("true"))["r2"]} == others
    assert title_of(drawn_of("splits", graded("q", times=1))).startswith(
        "The kinds divide the models not more than any of 34 other splits"
    )


def test_of_several_panels_those_with_splits_enough_are_counted() -> None:
    panels = graded("p"), graded("q", times=1), graded("r", sizes=(2, 2))
    chart = drawn_of("splits", *panels)
    assert title_of(chart) == (
        "The kinds divide the models more than any other split in 1 of 2 panels; "
        "too few models to tell in 1 more"
    )
    heads = chart["facet"]["row"]["sort"]
    assert [head.split(":")[0] for head in heads] == ["p", "q", "r"]
    assert heads[0].startswith("p: moe.0-3 + dense.0-3, r, seed 0: R2 0.")
    assert heads[2].endswith(", p 1/3")


def test_other_splits_that_lie_on_one_pixel_are_one_tick() -> None:
    one = graded("p")
    one["values"]["r2"] = [0.3, *np.linspace(0, 0.1, 50_000)]
    assert len(data_with(drawn_of("splits", one), "r2")) == 1 + 101


def test_models_stand_on_the_map_at_their_distances() -> None:
    one = graded("p")
    chart = drawn_of("model-map", one)
    assert title_of(chart) == (
        f"Models of different kinds lie {one['between_over_within']:.2f} times as far apart as models "
        "of one kind"
    )
    found = data_with(chart, "seed_x").sort("kind", "seed")
    assert found["model"].to_list() == [*one["kinds"]["dense"], *one["kinds"]["moe"]]
    assert found["seed"].to_list() == [0, 1, 2, 3] * 2
    places, shown = positions(np.array(one["squared_distances"]))
    wanted = np.concatenate([places[4:], places[:4]])
    assert found.select("x", "y").to_numpy() == pytest.approx(wanted)
    (part,) = chart["concat"]
    said = " ".join(part["title"]["subtitle"])
    assert said == f"the two axes show {100 * shown.sum():.1f} % of squared distance"
    x, y = (part["layer"][0]["encoding"][axis]["scale"]["domain"] for axis in "xy")
    assert x == y  # a distance is as long in both directions
    assert part["width"] == part["height"]


def test_a_model_s_seed_stands_away_from_its_nearest_neighbour() -> None:
    places = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    assert _away(places).tolist() == [[-1, 0], [1, 0], [1, 0], [0, 1]]


def test_maps_of_several_panels_share_the_colours_of_kinds() -> None:
    chart = drawn_of("model-map", graded("p"), graded("q", kinds_=("dense", "narrow")))
    scales = [part["layer"][0]["encoding"]["color"]["scale"] for part in chart["concat"]]
    assert scales == [{"domain": ["moe", "dense", "narrow"]}] * 2
    assert chart["resolve"] == {"scale": {"color": "shared"}}
    assert " to " not in title_of(chart)  # both are of the same numbers


@pytest.mark.parametrize("chart", ["splits", "model-map"])
def test_a_panel_in_which_nothing_is_explained_is_not_drawn(chart: str) -> None:
    nothing = {"unknown": "no feature explains anything in moe.0"}
    assert drawn_of(chart, graded("p"), nothing) == drawn_of(chart, graded("p"))
    assert title_of(drawn_of(chart, nothing)) == (
        "No panel has models that can be compared: in some, no feature explains anything"
    )
