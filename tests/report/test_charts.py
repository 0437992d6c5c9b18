"""Charts: each says the finding of its table in its title, and draws the numbers that it was given."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest

from charted import CALLED, SIDES, SIZE, data_with, drawn, title_of
from moediff.report.charts.classes import classes_chart
from moediff.report.charts.dictionaries import LEFT_LEAST, frontier_chart, fve_chart
from moediff.report.charts.experts import affinity, affinity_chart
from moediff.report.charts.features import BIN, density_chart, nu_chart, relative_norm_chart
from moediff.report.charts.splicing import domains_chart
from moediff.report.charts.training import training_chart
from moediff.report.theme import heading, spread_out, svg

# --- relative norms -------------------------------------------------------------------------------


def norms(values: list[float], classes: list[str], name: str = "d") -> pl.DataFrame:
    return pl.DataFrame({"dictionary": [name] * len(values), "class": classes,
                         "relative_norm": values})  # fmt: skip


def test_relative_norms_are_counted_in_bins() -> None:
    classes = ["A-only", "A-only", "common", "B-only", "common", "dead", "tied"]
    live = norms([0.0, 0.01, 0.5, 1.0, 0.49, 0.2, 0.5], classes)
    chart = drawn(relative_norm_chart(live, (0.3, 0.7), SIDES, SIZE))
    assert title_of(chart) == "40 % of live untied features are common (0.3 to 0.7)"
    bars = data_with(chart, "low")
    found = {(row["class"], row["low"]): row["features"] for row in bars.iter_rows(named=True)}
    assert found == {("only moe", 0.0): 2, ("common", 0.5): 1, ("common", 0.475): 1,
                     ("only dense", 0.975): 1}  # fmt: skip
    assert (bars["high"] - bars["low"]).to_list() == pytest.approx([BIN] * 4)


def test_the_null_is_a_line_of_as_many_features() -> None:
    live = pl.concat([norms([0.1, 0.5, 0.5, 0.5], ["A-only"] + ["common"] * 3),
                      norms([0.5], ["common"], "e")])  # fmt: skip
    null = pl.concat([norms([0.5, 0.9], ["common", "B-only"]), norms([0.3], ["dead"])])
    chart = drawn(relative_norm_chart(live, (0.3, 0.7), SIDES, SIZE, null))
    assert title_of(chart).endswith("80 % of live untied features are common (0.3 to 0.7), "
                                    "50 % between two seeds of one kind")  # fmt: skip
    line = data_with(chart, "low").filter(pl.col("class").is_null())
    assert line["dictionary"].to_list() == ["d"] * 40
    assert line["middle"].to_list() == pytest.approx([0.0125 + 0.025 * n for n in range(40)])
    wanted = [2.0 if n in (20, 36) else 0.0 for n in range(40)]
    assert line["features"].to_list() == pytest.approx(wanted)


# --- latent scaling -------------------------------------------------------------------------------


def scaled(error: list[float | None]) -> pl.DataFrame:
    """Two of A, one of B, two common, one tied, one dead, and one without values."""
    return pl.DataFrame(
        {
            "dictionary": ["d"] * 8,
            "class": ["A-only", "A-only", "B-only", "common", "common", "tied", "dead", "common"],
            "relative_norm": [0.1, 0.2, 0.9, 0.5, 0.6, 0.5, 0.1, 0.5],
            "nu_error": [*error, 0.7, 0.8, 0.9, 0.3, None],
            "nu_reconstruction": [0.5, 0.4, 0.3, 1.0, 1.1, 1.2, 0.3, math.nan],
        }
    )


def test_nu_is_drawn_by_owner_where_it_is_known() -> None:
    chart = drawn(nu_chart(scaled([0.1, 0.2, 0.4]), SIDES, SIZE))
    assert title_of(chart) == (
        "The other model's error holds 0.20 of an exclusive feature, 0.75 of a common one (median nu)"
    )
    points = data_with(chart, "nu_error")
    owners = {
        panel: sorted(points.filter(panel=panel)["nu_error"]) for panel in points["panel"].unique()
    }
    assert owners == {"features of moe, in dense": [0.1, 0.2, 0.7, 0.9],
                      "features of dense, in moe": [0.4, 0.8]}  # fmt: skip
    assert set(points["class"]) == {"only moe", "common", "only dense", "tied"}


def test_the_chart_of_nu_says_how_many_features_it_covers() -> None:
    def said(table: pl.DataFrame) -> tuple[str, str]:
        chart = drawn(nu_chart(table, SIDES, SIZE))
        return title_of(chart), " ".join(chart["title"]["subtitle"])

    title, below = said(scaled([0.5, None, math.nan]))
    assert "0.50 of an exclusive feature, 0.75 of a common one" in title
    assert "1 of 3 exclusive and 2 of 3 common features have a nu" in below
    assert "100 validation rows" in below
    title, below = said(scaled([None] * 3))
    assert title == "None of the 3 exclusive features has a nu to compare"
    assert "0 of 3 exclusive and 2 of 3 common features have a nu" in below
    shared = scaled([0.1, 0.2, 0.4]).filter(~pl.col("class").is_in(["A-only", "B-only"]))
    title, below = said(shared)
    assert title == "No feature is exclusive to one model, so there is no nu to compare"
    assert "0 of 0 exclusive and 2 of 3 common" in below
    alone = scaled([0.1, 0.2, 0.4]).filter(pl.col("class") != "common")
    title, below = said(alone)
    assert title == "The other model's error holds 0.20 of an exclusive feature (median nu)"
    assert "3 of 3 exclusive and 0 of 0 common" in below
    none = scaled([None] * 3).with_columns(nu_error=pl.lit(None, pl.Float64))
    title, below = said(none)  # nothing is drawn, and the title stands
    assert title == "None of the 3 exclusive features has a nu to compare"
    assert "0 of 3 exclusive and 0 of 3 common" in below
    assert "None of the 3 exclusive" in re.sub(r"<[^>]*>", "", svg(nu_chart(none, SIDES, SIZE)))


# --- frontier -------------------------------------------------------------------------------------


def fitted(best: float, many: int = 1) -> pl.DataFrame:
    recipes = [(f"r{n}", 16, 0.9 + 0.001 * n) for n in range(many)]
    return pl.DataFrame(
        [
            {"comparison": "c", "member": f"m.{member}", "recipe": recipe, "seed": 0, "k": k,
             "l0": k + member / 10, "fve": fve - member / 100, "baseline_mean": -0.01,
             "baseline_pca": 0.4 + k / 100}
            for recipe, k, fve in [("small", 8, 0.8), ("large", 32, best), *recipes]
            for member in range(2)
        ]
    )  # fmt: skip


def test_the_frontier_names_what_explains_most() -> None:
    chart = drawn(frontier_chart(fitted(0.95), SIZE))
    assert title_of(chart) == (
        "large explains most, 0.950 at L0 32.0: +0.230 beyond 32 principal components"
    )
    points = data_with(chart, "fve")
    assert len(points) == 6
    assert points["left"].to_list() == pytest.approx((1 - points["fve"]).to_list())
    assert title_of(drawn(frontier_chart(fitted(0.7), SIZE))).startswith("r0 explains most")
    perfect = drawn(frontier_chart(fitted(1.0), SIZE))
    assert data_with(perfect, "fve")["left"].min() == LEFT_LEAST


def test_names_of_recipes_do_not_lie_over_each_other() -> None:
    names = data_with(drawn(frontier_chart(fitted(0.95, many=6), SIZE)), "edge")
    close = names.filter(pl.col("recipe").str.starts_with("r")).sort("recipe")
    assert close["edge"].n_unique() == 1
    steps = -np.diff(np.log(close["place"].to_numpy()))
    assert (steps > 0).all()  # in the order of what they explain
    assert steps == pytest.approx([steps[0]] * 5)
    alone = names.filter(~pl.col("recipe").str.starts_with("r"))
    assert alone["place"].to_list() == pytest.approx(alone["left"].to_list())


def test_values_are_moved_apart_and_kept_below_the_top() -> None:
    assert spread_out([0.0, 0.1, 5.0], 1.0, 9.0) == [0.0, 1.0, 5.0]
    assert spread_out([8.0, 8.5, 8.6], 1.0, 9.0) == [7.0, 8.0, 9.0]
    assert spread_out([3.0], 1.0, 2.0) == [2.0]


# --- classes --------------------------------------------------------------------------------------


def counted(false: float | None, narrow: int = 30, other: str = "dense") -> pl.DataFrame:
    each = {"z-first": [10, 80, 10], "narrow": [narrow, 40, 30], "empty": [0, 0, 0]}
    return pl.DataFrame(
        [
            {"comparison": comparison, "sides": ["moe", other], "class": name, "features": features,
             "false_exclusive": false, "missed_exclusive": None}
            for comparison, counts in each.items()
            for name, features in [*zip(("A-only", "common", "B-only"), counts, strict=True),
                                   ("dead", 99), ("tied", 5)]
        ],
        schema_overrides={"false_exclusive": pl.Float64, "missed_exclusive": pl.Float64},
    )  # fmt: skip


def test_classes_are_shares_of_live_free_features_beside_their_error() -> None:
    chart = drawn(classes_chart(counted(0.25), SIZE))
    assert title_of(chart) == (
        "60.0 % of the features of narrow are one model's alone; where nothing differs 25.0 % are"
    )
    bars = data_with(chart, "share")
    assert bars["share"].to_list() == pytest.approx([0.1, 0.8, 0.1, 0.3, 0.4, 0.3])
    said = data_with(chart, "said")
    assert said.rows() == [("z-first", "false 25.0 %"), ("narrow", "false 25.0 %")]
    assert title_of(drawn(classes_chart(counted(None, 130), SIZE))) == (
        "80.0 % of the features of narrow are one model's alone; the rule's error is not known"
    )


def test_the_title_is_of_what_exceeds_its_own_error_most() -> None:
    first = pl.col("comparison") == "z-first"
    counts = counted(0.55).with_columns(
        pl.when(first).then(0.05).otherwise("false_exclusive").alias("false_exclusive")
    )
    assert title_of(drawn(classes_chart(counts, SIZE))).startswith("20.0 % of the features")


# --- affinity -------------------------------------------------------------------------------------


def told(moe: float, dense: float = 1e-5) -> pl.DataFrame:
    rows = [(layer, name, value * factor) for layer in (1, 3) for factor in (0.5, 1.0, 2.0)
            for name, value in (("A-only", moe * layer), ("B-only", dense), ("common", 2e-4),
                                ("dead", 7.0))]  # fmt: skip
    table = pl.DataFrame(rows, schema=["layer", "class", "corrected"], orient="row")
    none = {"layer": [1, 1], "class": ["common"] * 2, "corrected": [None, math.nan]}
    return pl.concat([table, pl.DataFrame(none)]).with_columns(model=pl.lit("moe"))


def test_information_is_that_of_the_median_feature_by_layer_and_class() -> None:
    chart = drawn(affinity_chart(told(4e-4), SIDES, SIZE))
    assert title_of(chart) == (
        "In layer 3 of moe firing of its own features tells 0.00120 nats of the expert, of dense's own "
        "0.00001"
    )
    found = data_with(chart, "median")
    assert len(found) == 6
    own = found.filter(layer=3, **{"class": "only moe"}).row(0, named=True)
    assert [own[name] for name in ("low", "median", "high")] == pytest.approx([9e-4, 12e-4, 18e-4])
    assert own["features"] == 3
    assert found.filter(layer=1, **{"class": "common"})["features"].item() == 3
    assert "In layer 1 of moe firing of its own features tells -0.00100 nats" in title_of(
        drawn(affinity_chart(told(-1e-3), SIDES, SIZE))
    )
    assert "tells 0 nats" in title_of(drawn(affinity_chart(told(0.0, 0.0), SIDES, SIZE)))
    without = told(4e-4).filter(pl.col("class") != "B-only")
    assert title_of(drawn(affinity_chart(without, SIDES, SIZE))).startswith("No layer has features")


# --- domains --------------------------------------------------------------------------------------


def spliced(code: float) -> pl.DataFrame:
    """Clean 4, spliced 5 (in code as given), mean 6, zero 8; with frozen routing nothing is lost."""
    rows = []
    for source in ("moe.0", "dense.0"):
        for domain in ("code", "all", "aged"):
            for routing in ("live", "frozen"):
                loss = code if (source, domain) == ("dense.0", "code") else 4.5
                loss = {"clean": 4.0, "spliced": loss, "mean": 6.0, "zero": 8.0, "without x": 9.0}
                if routing == "frozen":
                    loss["spliced"] = 5.9
                rows += [
                    {"comparison": "c", "member": "moe.0_dense.0", "recipe": "r", "seed": 1,
                     "source": source, "domain": domain, "routing": routing, "kind": kind,
                     "cross_entropy": value, "recovered_zero": (8 - value) / 4,
                     "recovered_mean": (6 - value) / 2, "tokens": 9}
                    for kind, value in loss.items()
                ]  # fmt: skip
    return pl.DataFrame(rows)


def test_losses_are_drawn_by_domain_with_live_routing() -> None:
    chart = drawn(domains_chart(spliced(5.5), CALLED, SIZE))
    assert title_of(chart) == (
        "At least 0.250 of the loss is recovered against mean ablation (dense, code)"
    )
    losses = data_with(chart, "cross_entropy")
    assert len(losses) == 2 * 3 * 4
    assert set(losses["kind"]) == {"clean", "spliced", "mean-ablated", "zero-ablated"}
    panels = ["moe", "dense"]
    assert chart["title"]["subtitle"] == ["c: moe.0 + dense.0, r, seed 1"]
    assert losses["panel"].unique(maintain_order=True).to_list() == panels
    own = {"panel": panels[1], "domain": "code"}
    assert losses.filter(**own, kind="spliced")["cross_entropy"].to_list() == [5.5]
    shares = data_with(chart, "share")
    found = dict(shares.filter(**own).select("ablation", "share").iter_rows())
    assert found == pytest.approx({"against mean ablation": 0.25, "against zero ablation": 0.625})
    assert len(shares) == 2 * 3 * 2
    sorts = [part["spec"]["encoding"]["y"]["sort"] for part in chart["hconcat"]]
    assert sorts == [["all", "aged", "code"]] * 2
    assert "(dense, aged)" in title_of(drawn(domains_chart(spliced(4.1), CALLED, SIZE)))


def test_where_ablation_costs_nothing_nothing_is_recovered() -> None:
    nothing = pl.lit(None, pl.Float64)
    table = spliced(5.0).with_columns(recovered_mean=nothing, recovered_zero=nothing)
    chart = drawn(domains_chart(table, CALLED, SIZE))
    assert title_of(chart) == "Ablation by the mean costs nothing, so nothing can be recovered"


# --- size -----------------------------------------------------------------------------------------


def test_more_features_than_a_chart_has_by_default_are_drawn() -> None:
    many = pl.DataFrame(
        {"dictionary": ["d"] * 6000, "class": ["common"] * 6000, "density": [0.1] * 6000}
    )
    chart = drawn(density_chart(many, SIDES, SIZE))
    assert sum(map(len, chart["datasets"].values())) == 6000


# --- names and room -------------------------------------------------------------------------------


def texts(value: object) -> Iterator[str]:
    """Every text of a chart."""
    if isinstance(value, dict):
        yield from texts(list(value.values()))
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


def test_models_stand_by_name_and_never_as_a_and_b() -> None:
    classes = ["A-only", "common", "B-only", "tied"]
    table = pl.DataFrame(
        {
            "dictionary": ["d"] * 4, "class": classes, "relative_norm": [0.1, 0.5, 0.9, 0.5],
            "density": [0.1] * 4, "nu_error": [0.1] * 4, "nu_reconstruction": [0.1] * 4,
        }
    )  # fmt: skip
    charts = [
        relative_norm_chart(table, (0.3, 0.7), SIDES, SIZE, table), density_chart(table, SIDES, SIZE),
        nu_chart(table, SIDES, SIZE), affinity_chart(told(4e-4), SIDES, SIZE),
        classes_chart(counted(0.1), SIZE),
    ]  # fmt: skip
    for chart in charts:
        said = set(texts(drawn(chart)))
        assert {"only moe", "only dense"} <= said
        assert not [text for text in said if "A-only" in text or "B-only" in text]


def test_bars_of_several_pairs_name_their_models() -> None:
    one, other = (
        counted(None, other=other).with_columns(comparison=pl.lit(f"c-{other}"))
        for other in ("dense", "narrow")
    )
    bars = data_with(drawn(classes_chart(pl.concat([one, other]), SIZE)), "share")
    assert set(bars["class"]) == {"only the first", "common", "only the second"}
    assert set(bars["comparison"]) == {"c-dense: moe, dense", "c-narrow: moe, narrow"}


def test_experts_are_drawn_of_every_moe_and_of_the_second_source_too() -> None:
    features = pl.DataFrame({"feature": [0, 1, 2], "class": ["A-only", "B-only", "common"]})

    def table(value: float) -> pl.DataFrame:
        return pl.DataFrame(
            {"feature": [0, 1, 2], "layer": [0] * 3, "corrected": [value, 2 * value, 0.0]}
        )

    settings = {"drawn": ["c", "base.0_mix.0", "r", 0], "routed": ["base.0", "mix.0"]}
    tables = {"features": [features], "affinity": [table(0.0).clear(), table(1e-3)]}
    chart = drawn(affinity(tables, settings, SIZE))
    assert title_of(chart) == (
        "In layer 0 of mix firing of its own features tells 0.00200 nats of the expert, of base's own "
        "0.00100"
    )
    assert set(data_with(chart, "median")["model"]) == {"mix"}
    none = {"features": [features], "affinity": [table(0.0).clear()] * 2}
    assert title_of(drawn(affinity(none, settings, SIZE))) == "No experts of base or mix are stored"


def test_numbers_of_a_dictionary_and_its_baseline_never_share_a_place() -> None:
    rows = pl.DataFrame(
        {"comparison": ["c"], "member": ["a.0_b.0"], "recipe": ["r"], "seed": [0], "k": [4],
         "fve": [0.9001], "baseline_mean": [0.0], "baseline_pca": [0.9]}
    )  # fmt: skip
    chart = drawn(fve_chart(rows, SIZE))
    named = [layer for layer in chart["layer"] if layer["mark"]["type"] == "text"]
    assert [layer["encoding"]["x"] for layer in named] == [{"value": SIZE["width"]}]
    assert chart["padding"]["left"] > len("c: a.0 + b.0, r, seed 0")


def test_names_of_ngrams_of_equal_loss_stand_apart_within_the_axis() -> None:
    history = pl.DataFrame(
        {"model": ["m", "m"], "seed": ["0", "0"], "tokens": [1, 2], "cross_entropy": [3.0, 2.0]}
    )
    ngrams = pl.DataFrame(
        {"model": ["unigram", "bigram", "trigram"], "cross_entropy": [4.0, 4.0, 2.5]}
    )
    chart = drawn(training_chart(history, ngrams, SIZE))
    places = data_with(chart, "place").sort("place")["place"].to_list()
    low, high = chart["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert low < 2.0
    assert places[-1] <= high
    assert min(np.diff(places)) * SIZE["height"] / (high - low) >= 13 - 1e-9


def test_titles_are_cut_into_lines_that_fit() -> None:
    found = heading("word " * 40, 340, "small " * 40)
    assert max(map(len, found.text)) <= 40
    assert len(found.text) == 5
    assert " ".join(found.text) == ("word " * 40).strip()


def test_density_of_one_class_says_how_often_half_of_it_fires() -> None:
    live = pl.DataFrame(
        {"dictionary": ["d"] * 3, "class": ["live"] * 3, "density": [0.1, 0.2, 0.4]}
    )
    title = title_of(drawn(density_chart(live, ("moe",), SIZE)))
    assert title == "Half of the live features fire on 20.00% of rows or more"
