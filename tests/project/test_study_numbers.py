"""Every number of docs/study.md: made again from docs/reference and the configs, or named no measurement."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable
from contextlib import chdir
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from moediff.analysis import kinds, permanova, trend
from moediff.analysis.differential import Q
from moediff.claims.reading import read_claims
from moediff.core.resampling import zero_bound
from moediff.models.build import build
from moediff.models.parameters import count_parameters
from stored import GRADED, judged_again, names_of, stored, tails_of
from told import Document
from workflow import ROOT

PAGE = ROOT / "docs/study.md"
KINDS, STUDY = ROOT / "docs/reference/kinds", ROOT / "docs/reference/study"
ALONE = "A-only", "B-only"


def panels(comparison: str, recipe: str = "default") -> list[dict[str, Any]]:
    """Of the second study, by dictionary seed."""
    every = stored(KINDS, "kinds")["panels"]
    return [one for one in every if (one["comparison"], one["recipe"]) == (comparison, recipe)]


def in_order(panel: dict[str, Any]) -> dict[str, list[str]]:
    """The kinds of a panel as its sources have them; JSON sorts them by name."""
    first = panel["sources"].index
    return dict(sorted(panel["kinds"].items(), key=lambda kind: first(kind[1][0])))


def value(panel: dict[str, Any], statistic: str, key: str = "observed") -> float:
    (row,) = (row for row in panel["judged"] if row["statistic"] == statistic)
    return row[key]


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def both(values: Iterable[float], digits: int = 2) -> str:
    """The numbers of two dictionaries."""
    return " and ".join(f"{one:.{digits}f}" for one in values)


def excesses(comparison: str, recipe: str = "default") -> list[float]:
    """What kinds spend differently above other labels, in percent."""
    return [
        100 * value(one, "total_variation", "excess_over_mean")
        for one in panels(comparison, recipe)
    ]


Part = Callable[[Document], None]
PARTS: list[Part] = []  # each accounts for the numbers of some paragraphs


def part(check: Part) -> Part:
    PARTS.append(check)
    return check


# --- Kinds and rates, crossed

COMPARED = {
    "kind": "MoE, dense; rate 0.003",
    "kind-fast": "MoE, dense; rate 0.006",
    "rate-moe": "MoE at rates 0.003, 0.006",
    "rate-dense": "dense at rates 0.003, 0.006",
    "narrow": "dense with code, without",
}


def apart(distances: np.ndarray, first: np.ndarray) -> float:
    """Squared distance of two kinds' centres, freed of what models of one kind differ in: the mean squared
    distance across less the mean within."""
    inside = [distances[np.ix_(side, side)] for side in (first, ~first)]
    within = [block.sum() / (len(block) * (len(block) - 1)) for block in inside]
    return float(distances[np.ix_(first, ~first)].mean() - np.mean(within))


def centres(comparison: str) -> list[float]:
    first = np.arange(10) < 5
    return [apart(np.array(one["squared_distances"]), first) for one in panels(comparison)]


def compared(comparison: str) -> str:
    """A row of the table that the second study and the README have."""
    found = panels(comparison)
    ranks = {value(one, name, "rank") for one in found for name in ("r2", "total_variation")}
    splits = {value(one, "r2", "others") + 1 for one in found}
    assert (ranks, splits) == ({1}, {126}), comparison
    r2 = both(value(one, "r2") for one in found)
    other = max(value(one, "r2", "largest_other") for one in found)
    cells = [
        COMPARED[comparison],
        r2,
        f"{other:.2f}",
        "1/126",
        f"{both(excesses(comparison), 1)} %",
    ]
    return f"| {' | '.join(cells)} | {both(centres(comparison), 3)} |"


@part
def kinds_crossed_with_rates(study: Document) -> None:
    study.says(*map(compared, COMPARED))
    seeds = {one["seed"] for name in COMPARED for one in panels(name)}
    assert seeds == {0, 1}
    # What was fixed before the run: narrow is seen, kinds differ at both rates, and not more than rates do.
    kind, fast, dense, moe = map(excesses, ("kind", "kind-fast", "rate-dense", "rate-moe"))
    assert all(one < other for one, other in zip(fast, dense, strict=True))
    assert all(one > other for one, other in zip(kind + fast, moe + moe, strict=True))
    lie = [f"{centres(name)[0]:.3f}" for name in ("kind", "kind-fast", "rate-dense")]
    study.says(
        "the kinds divide the models at both rates, p 0.05 or less",
        "p 0.05 or less. All else is exploratory",
        "After Holm p is 2/126 = 0.016 at both rates",
        f"the kinds of the higher rate spend less differently ({both(fast, 1)} %) than dense models of two "
        f"rates do ({both(dense, 1)} %)",
        f"level with these ({both(kind, 1)} %), and both are above MoEs of two rates ({both(moe, 1)} %)",
        f"their centres lie {lie[0]}, {lie[1]} and {lie[2]} apart in the first dictionary",
        "of halves at random it is about "
        f"{np.mean([value(one, 'r2', 'mean_other') for one in panels('kind')]):.2f}",
        "There are 126 ways to halve them, so that no p is below 1/126",
        "largest of 125 other halvings",
    )
    assert math.comb(10, 5) / 2 == 126


@part
def models_of_one_seed(study: Document) -> None:
    same, other = [], []
    for comparison in list(COMPARED)[:4]:
        for one in panels(comparison):
            distances = np.array(one["squared_distances"])
            seeds = np.array([name.rpartition(".")[2] for name in one["sources"]])
            pairs = seeds[:5, None] == seeds[None, 5:]
            assert pairs.sum() == 5
            same.append(distances[:5, 5:][pairs].mean())
            other.append(distances[:5, 5:][~pairs].mean())
            first = np.arange(10) < 5
            swapped = []  # halves that part every pair: the first one's model stays where it is
            for swaps in itertools.product([False, True], repeat=4):
                label = first.copy()
                turned = np.flatnonzero(swaps) + 1
                label[turned], label[turned + 5] = False, True
                swapped.append(label)
            shares = permanova.r2(distances, np.array(swapped))
            assert (len(shares), shares.argmax()) == (16, 0)
    assert all(near < far for near, far in zip(same, other, strict=True))
    study.says(
        f"in squared distance {min(same):.3f} to {max(same):.3f} against {min(other):.3f} to "
        f"{max(other):.3f}",
        "alone leaves 16 halvings; the true one is first of these in all four panels and both dictionaries, "
        "and p could not be below 1/16",
    )


@pytest.mark.parametrize("comparison", [*COMPARED, "matched"])
def test_what_is_stored_of_a_panel_is_what_today_s_code_says(comparison: str) -> None:
    for found in panels(comparison):
        table = pl.read_parquet(KINDS / f"explained/{comparison}/seed-{found['seed']}.parquet")
        names = [name.removeprefix("explained_") for name in table.columns[1:]]
        again = kinds.graded_usage(table.drop("feature").to_numpy(), names, in_order(found))
        np.testing.assert_allclose(again["values"]["r2"], found["values"]["r2"], rtol=1e-9)
        for row, old in zip(again["judged"], found["judged"], strict=True):
            assert (row["statistic"], row["p"]) == (old["statistic"], old["p"])
            assert row["observed"] == pytest.approx(old["observed"])


def test_what_is_stored_of_other_recipes_and_of_rows_follows_from_their_distances() -> None:
    for found in stored(KINDS, "kinds")["panels"]:
        for one in (found, *found["without_dictionary"]):
            again = kinds.graded(np.array(one["squared_distances"]), in_order(found))
            for row in again["judged"]:
                assert row["p"] == value(one, row["statistic"], "p")
                assert row["observed"] == pytest.approx(value(one, row["statistic"]))


@part
def the_dose_of_experts(study: Document) -> None:
    found = stored(KINDS, "kinds")["trends"]
    shares = [one["judged"]["observed"] for one in found]
    others = max(one["judged"]["largest_other"] for one in found)
    assert {one["judged"]["p"] for one in found} == {1 / 10_000}
    names = found[0]["sources"]
    kind = np.array([name.rpartition(".")[0] for name in names])
    distances = np.array(found[0]["squared_distances"])
    lie = []
    for name in ("dose-2", "dose-4", "moe", "dose-16"):
        pair = np.flatnonzero((kind == name) | (kind == "dense"))
        lie.append(f"{apart(distances[np.ix_(pair, pair)], kind[pair] == 'dense'):.3f}")
    experts_only = []
    for one in found:
        there = np.flatnonzero(kind != "dense")
        amounts = np.log2([[one["doses"][kind[number]] for number in there]])
        whole = np.array(one["squared_distances"])
        experts_only.append(trend.along(whole[np.ix_(there, there)], amounts)[0])
    study.says(
        f"of squared distance {percent(shares[0], 0)} and {percent(shares[1], 0)} % lies along the "
        "logarithm of the number of experts (p 1/10,000; of 9,999 orders at random "
        f"{percent(others, 0)} % at most), and {percent(experts_only[0], 0)} and "
        f"{percent(experts_only[1], 0)} % without the dense models",
        f"the centres of 2, 4, 8 and 16 experts lie {', '.join(lie[:3])} and {lie[3]} apart in the first "
        "dictionary",
    )
    for one in found:
        doses = {name: one["doses"][kind] for kind, names in one["kinds"].items() for name in names}
        amounts = np.log2([[doses[name] for name in one["sources"]]])
        again = trend.along(np.array(one["squared_distances"]), amounts)
        assert again[0] == pytest.approx(one["judged"]["observed"])


@part
def losses_of_the_second_study(study: Document) -> None:
    losses = pl.read_parquet(KINDS / "losses.parquet").filter(pl.col("domain") == "all")
    steps = losses.group_by("model", "step").agg(pl.col("cross_entropy").mean()).sort("step")
    mean = dict(steps.group_by("model", maintain_order=True).last().drop("step").iter_rows())
    kept = {
        step: float(f"{loss:.3f}")
        for model, step, loss in steps.iter_rows()
        if model == "dense" and step in (600, 700, 800, 900)
    }
    (trigram,) = (
        row["cross_entropy"]
        for row in stored(KINDS, "ngrams")["rows"]
        if (row["model"], row["domain"]) == ("trigram", "all")
    )
    matched = panels("matched")
    study.says(
        f"Dense models end at {mean['dense']:.3f} nats on average, MoEs at {mean['moe']:.3f}, at "
        "twice the rate "
        f"at {mean['dense-fast']:.3f} and {mean['moe-fast']:.3f}.",
        f"before their end ({kept[900]:.3f}): beside the MoEs R2 is "
        f"{both(value(one, 'r2') for one in matched)}.",
        f"The trigram has {trigram:.3f}",
    )
    assert losses["cross_entropy"].min() > trigram
    last = losses.filter(pl.col("step") == 1000)
    fast = [
        last.filter(pl.col("model") == name)["cross_entropy"] for name in ("moe-fast", "dense-fast")
    ]
    assert fast[0].max() < fast[1].min()
    study.says(
        f"Dense models of two rates differ by {mean['dense-fast'] - mean['dense']:.2f} nats",
        "Both kinds end lower at 0.003",
    )
    # The step that the rule takes: of those that are kept the nearest to the MoEs' end.
    assert len(kept) == 4
    assert min(kept, key=lambda step: abs(kept[step] - mean["moe"])) == 900


def dispersions(comparison: str, kind: str, recipe: str = "default") -> list[float]:
    """How far models lie from their kind's centre, by dictionary seed."""
    return [one["dispersion"][kind] for one in panels(comparison, recipe)]


@part
def models_and_their_rows(study: Document) -> None:
    ranks = {
        (name, recipe): value(panels(name, recipe)[0], "r2", "rank")
        for name in list(COMPARED)[:4]
        for recipe in ("rms", "whiten")
    }
    assert [ranks[name, "rms"] for name in list(COMPARED)[:4]] == [5, 2, 9, 1]
    assert {ranks[name, "whiten"] for name in list(COMPARED)[:4]} == {1}
    slow, fast, moe, dense = (
        (f"{excesses(name, 'rms')[0]:.1f} %", f"R2 {value(panels(name, 'rms')[0], 'r2'):.2f}")
        for name in list(COMPARED)[:4]
    )
    whitened = [f"{excesses(name, 'whiten')[0]:.1f}" for name in list(COMPARED)[:4]]
    without = {
        measure: next(
            one["dispersion"]
            for one in panels("kind")[0]["without_dictionary"]
            if one["measure"] == measure
        )
        for measure in ("cka", "procrustes")
    }
    normed = [dispersions("kind", kind, "rms")[0] for kind in ("moe", "dense")]
    study.says(
        f"the kinds spend {slow[0]} differently at the lower rate ({slow[1]}, fifth of 126) and "
        f"{fast[0]} at "
        f"the higher one ({fast[1]}, second), MoEs of two rates {moe[0]} ({moe[1]}, ninth) and dense "
        "models of "
        f"two rates {dense[0]} (first)",
        f"it is {', '.join(whitened[:3])} and {whitened[3]} %, each first",
        f"{both(dispersions('kind', 'moe'))} against {both(dispersions('kind', 'dense'))}, at the "
        "higher rate "
        f"{both(dispersions('kind-fast', 'moe-fast'))} against "
        f"{both(dispersions('kind-fast', 'dense-fast'))}",
        f"With rows over their norms it is {normed[0]:.2f} against {normed[1]:.2f} at the lower rate",
        f"by linear CKA there is no difference ({without['cka']['moe']:.2f} and "
        f"{without['cka']['dense']:.2f}), and by Procrustes dense models vary more "
        f"({without['procrustes']['dense']:.2f} against {without['procrustes']['moe']:.2f})",
    )


MEASURES = {
    "cka": "linear CKA",
    "procrustes": "Procrustes",
    "neighbours": "shared neighbours",
    "ridge": "ridge R2",
}


@part
def without_a_dictionary(study: Document) -> None:
    for measure, name in MEASURES.items():
        cells = []
        for comparison in COMPARED:
            (one,) = (
                one
                for one in panels(comparison)[0]["without_dictionary"]
                if one["measure"] == measure
            )
            assert value(one, "r2", "rank") == 1
            cells.append(f"{value(one, 'r2'):.2f}")
        study.says(f"| {name} | {' | '.join(cells)} |")
    study.says(
        "| | MoE, dense; 0.003 | MoE, dense; 0.006 | MoE at 0.003, 0.006 | dense at 0.003, 0.006 |",
        "R2 of the true halves, first of 126 each",
    )


def strict(comparison: str, kind: str, key: str = "observed") -> list[float]:
    """Features of a kind alone by the strict rule, by dictionary seed."""
    return [
        row[key]
        for one in stored(KINDS, "panel")["panels"]
        if (one["comparison"], one["recipe"]) == (comparison, "default")
        for row in one["judged"]
        if (row["kind"], row["statistic"]) == (kind, "features")
    ]


@part
def features_of_one_kind(study: Document) -> None:
    shares = [
        row["observed"]
        for one in stored(KINDS, "panel")["panels"]
        if one["comparison"] == "narrow"
        for row in one["judged"]
        if (row["kind"], row["statistic"]) == ("dense", "share")
    ]
    assert strict("kind", "either kind") == [0, 1]
    assert strict("kind-fast", "either kind") == [1, 0]
    for name in ("kind", "kind-fast"):
        assert strict(name, "either kind", "largest_other") == [1, 1]
    narrow = strict("narrow", "dense")

    def used(comparison: str, kind: str, key: str = "features") -> list[float]:
        return [
            row[key]
            for one in panels(comparison)
            for row in one["catalogue"]
            if (row["kind"], row["q"]) == (kind, Q)
        ]

    def explained(kind: str, key: str) -> str:
        return both((100 * share for share in used("kind", kind, key)), 1)

    study.says(
        f"Of the models with code {narrow[0]} and {narrow[1]} features are their own, with "
        f"{both((100 * share for share in shares), 1)} % of the variance",
        f"By degree (q {Q:g}) MoEs use {both(used('kind', 'moe'), 0)} features more at the lower "
        "rate, which "
        f"explain {explained('moe', 'share')} % of the variance there and "
        f"{explained('moe', 'elsewhere')} % in "
        f"dense models; dense models use {both(used('kind', 'dense'), 0)} more, with "
        f"{explained('dense', 'share')} %",
        f"At the higher rate it is {both(used('kind-fast', 'moe-fast'), 0)}, "
        f"{both(used('kind-fast', 'dense-fast'), 0)}; between dense models of two rates "
        f"{both(used('rate-dense', 'dense'), 0)}, {both(used('rate-dense', 'dense-fast'), 0)}",
    )


def experts(comparison: str) -> pl.DataFrame:
    """Of each MoE of a panel the median information of a feature's firing about its experts in layer 2,
    in thousandths of a nat: of features that the first kind uses more, the second does, and the rest."""
    found = []
    for path in sorted(KINDS.glob(f"experts/{comparison}/*.parquet")):
        table = pl.read_parquet(path).with_columns(
            pl.when(pl.col("q") > Q)
            .then(pl.lit("rest"))
            .otherwise(pl.when(pl.col("t") > 0).then(pl.lit("first")).otherwise(pl.lit("second")))
            .alias("more")
        )
        rare = table.filter(pl.col("density").is_between(1e-3, 1e-2))
        for dense, part in (("all", table), ("0.1 to 1 %", rare)):
            medians = part.group_by("more").agg(1000 * pl.col("whole_corrected").median())
            found.append({"features": dense} | dict(medians.iter_rows()))
    return pl.DataFrame(found)


def tries(comparison: str) -> str:
    """A row of what was seen of planted effects, at each share of variance."""
    found = {row["statistic"]: row for row in panels(comparison)[0]["detectable"]}
    assert all(row["least"] is None and row["largest_tried"] == 0.03 for row in found.values())
    cells = []
    for statistic in ("r2", "total_variation", "exclusive", "catalogue"):
        seen = found[statistic]["seen"]
        assert [(one["share"], one["tries"]) for one in seen] == [(0.01, 5), (0.03, 5)]
        cells.append(f"{seen[0]['seen']}, {seen[1]['seen']}")
    return f"| {COMPARED[comparison]} | {' | '.join(cells)} |"


@part
def planted_effects(study: Document) -> None:
    study.says(
        "seen in five tries, at 1 and at 3 %",
        "so that it has 1 or 3 % of their variance",
        "No statistic saw 3 % of variance at one class",
        *map(tries, list(COMPARED)[:4]),
    )
    by_class: dict[str, list[bool]] = {}
    for comparison in list(COMPARED)[:4]:
        for one in stored(KINDS / "detectable", comparison)["tries"]:
            by_class.setdefault(one["class"], []).append(one["statistics"]["catalogue"]["seen"])
    seen = {name: (sum(found), len(found)) for name, found in by_class.items()}
    assert seen["digits"][0] == 0
    assert seen["line_end_after_colon"] == (16, 16)
    study.says(
        f"digits are seen in none of {seen['digits'][1]} tries, ends of lines in all of "
        f"{seen['line_end_after_colon'][1]}, quoted text in {seen['quoted'][0]} of {seen['quoted'][1]}"
    )


def means(comparison: str, features: str = "all") -> list[str]:
    """Over a panel's MoEs the mean of `experts`: of features that the first kind uses more, the second,
    the rest."""
    table = experts(comparison).filter(pl.col("features") == features)
    return [f"{table[name].mean():.2f}" for name in ("first", "second", "rest")]


def used_more(comparison: str) -> list[int]:
    """Features that each kind uses more in the first dictionary, in the order of the kinds."""
    found = panels(comparison)[0]
    counts = {row["kind"]: row["features"] for row in found["catalogue"] if row["q"] == Q}
    return [counts[kind] for kind in in_order(found)]


@part
def what_features_say_of_experts(study: Document) -> None:
    slow, rare, fast = means("kind"), means("kind", "0.1 to 1 %"), means("kind-fast")
    rates, few, fewer = means("rate-moe"), used_more("kind-fast"), used_more("rate-moe")
    whole = experts("kind").filter(pl.col("features") == "all")
    assert len(whole) == 5
    times = whole["first"] / whole["second"]
    study.says(
        f"{slow[0]} thousandths of a nat a row for features that MoEs use more, {slow[1]} for those "
        "that dense "
        f"models do, {slow[2]} for all others ({times.min():.1f} to {times.max():.1f} times as much "
        "in single "
        f"MoEs); among those that fire on 0.1 to 1 % of rows it is {rare[0]}, {rare[1]} and {rare[2]}",
        f"at the higher rate it is {fast[0]}, {fast[1]} and {fast[2]}, where {few[0]} features are "
        "used more by "
        f"MoEs and {few[1]} by dense models",
        f"of two rates it is {rates[0]} for the {fewer[0]} that those of the lower rate use more, "
        f"{rates[1]} for "
        f"the {fewer[1]} of the higher one",
    )


@part
def what_the_second_study_cost(study: Document) -> None:
    cost = pl.read_csv(KINDS / "cost.csv")
    hours = {
        name: cost.filter(pl.col("stage").is_in(stages))["cpu_s"].sum() / 3600
        for name, stages in {
            "planted": ["plant"],
            "models": ["train"],
            "dictionaries": ["fit"],
        }.items()
    }
    study.says(
        f"At least {cost['cpu_s'].sum() / 3600:.1f} hours of one core by its benchmarks, "
        f"{hours['planted']:.1f} of them "
        f"planted effects, {hours['models']:.1f} models, {hours['dictionaries']:.1f} dictionaries"
    )


# --- Each kind at its own best rate


def of_pairs(comparison: str, recipe: str = "default") -> pl.DataFrame:
    """One row a dictionary over two sources: shares of live free features and of variance that are one's
    alone."""
    found: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in stored(STUDY, "classes")["rows"]:
        if (row["comparison"], row["recipe"]) == (comparison, recipe):
            found.setdefault(tuple(row["sources"]), {})[row["class"]] = row
    rows = []
    for (a, b), classes in found.items():
        first, second = (classes[name] for name in ALONE)
        free = first["count"] + second["count"] + classes["common"]["count"]
        shares = {"first own": first["shares"][a], "second own": second["shares"][b]}
        alone = {
            "first features": first["count"] / free,
            "features": 1 - classes["common"]["count"] / free,
        }
        rows.append({"pair": (a, b), "variance": sum(shares.values()) / 2} | shares | alone)
    return pl.DataFrame(rows)


def cell(comparison: str, recipe: str = "default") -> str:
    """Features and variance of one model alone, of the pair of the first seeds."""
    row = next(of_pairs(comparison, recipe).iter_rows(named=True))
    assert [name.split(".")[1] for name in row["pair"]] in (["0", "0"], ["0", "1"])
    return f"{percent(row['features'])} %, {percent(row['variance'])} %"


def own(table: pl.DataFrame) -> float:
    """What is a model's own of its variance, mean over models of both sides."""
    return float(np.concatenate([table["first own"], table["second own"]]).mean())


@part
def pairs_of_the_first_study(study: Document) -> None:
    every = {name: of_pairs(name) for name in ("moe-dense", "moe-moe", "dense-dense")}
    assert [len(table) for table in every.values()] == [16, 6, 6]
    features = [percent(table["features"].mean(), 0) for table in every.values()]
    variance = [percent(table["variance"].mean()) for table in every.values()]
    between, moes, denses = every.values()
    (excess,) = (
        one for one in stored(STUDY, "claims")["claims"] if one["id"] == "exclusive_excess"
    )
    low, high = excess["interval"]
    study.says(
        f"{features[0]} % are one model's alone between an MoE and a dense model, {features[1]} % "
        "between two "
        f"MoEs, {features[2]} % between two dense models; they carry {variance[0]}, {variance[1]} and "
        f"{variance[2]} % of the variance",
        f"that is {percent(excess['estimate'])} % of the variance ({percent(low)} to "
        f"{percent(high, 1)} %; p 1/35, the smallest there is",
        f"of an MoE's variance {percent(between['first own'].mean())} % is its own beside a dense "
        "model and "
        f"{percent(own(moes))} % beside another MoE; of a dense model's "
        f"{percent(between['second own'].mean())} "
        f"% beside an MoE and {percent(own(denses))} % beside another dense one",
        f"({variance[2]} %), MoEs nearly as far from one another ({variance[1]} %) as from dense models "
        f"({variance[0]} %)",
        "made of the same 28 dictionaries",
        "all 28 pairs of the eight models",
        "first of the 35 ways to halve the eight models",
        "split the eight into halves in all 35 ways",
        "rank of 35",
    )
    assert (excess["p"], math.comb(8, 4) / 2) == (pytest.approx(1 / 35), 35)


@part
def graded_statistics_of_the_first_study(study: Document) -> None:
    with chdir(ROOT):
        graded: pl.DataFrame = names_of(GRADED)["graded"]
    for row in graded.iter_rows(named=True):
        assert row["rank"] == 1
        share = row["statistic"] == "excess"
        values = [
            f"{percent(row[key])} %" if share else f"{row[key]:.2f}"
            for key in ("true", "largest_other")
        ]
        name = "between halves less within" if share else "pseudo-F"
        measure = row["measure"].replace("share of features", "share of live free features")
        study.says(f"| {measure} | {name} | {values[0]} | {values[1]} | 1 |")


@part
def controls_of_the_first_study(study: Document) -> None:
    rates = {
        row["control"]: row["exclusive"]
        for row in stored(STUDY, "classes")["error_rates"]
        if row["recipe"] == "default"
    }
    assert rates["rotated"] == 0
    untrained = of_pairs("untrained")["features"][0]
    paper = of_pairs("paper", "paper")
    (weak,) = (row for row in stored(STUDY, "claims")["claims"] if row["id"] == "shared_penalty")
    fired = [
        row["firings_per_feature"]
        for row in stored(STUDY, "fve")["rows"]
        if (row["comparison"], row["mode"], row["source"]) == ("moe-dense", "threshold", "pooled")
    ]
    assert min(fired) > 100
    study.says(
        f"An untrained model beside a trained one has {percent(untrained, 0)} % of features alone, "
        "permuted "
        f"rows {percent(rates['permuted'])} %, a rotated copy none",
        f"in `permuted`, where nothing is common, {percent(1 - rates['permuted'])} % are",
        f"scaled down, calls {percent(paper['first features'].mean(), 0)} % MoE-only here",
        f"(0.7 against 0.15) changes FVE by {weak['estimate']:.3f}",
    )
    assert (paper["features"] - paper["first features"]).max() < 0.002  # next to nothing


@part
def the_grid_of_the_first_study(study: Document) -> None:
    named = {
        "k8": "k 8",
        "k32": "k 32",
        "f2048": "2,048 features",
        "tied0": "none tied",
        "tied25": "a quarter tied",
    }
    study.says(
        "| recipe | `moe.0`, `dense.0` | `dense.0`, `dense.1` |",
        f"| default (k 16, 4,096 features, 6 % tied) | {cell('moe-dense')} | {cell('dense-dense')} |",
        *(
            f"| {name} | {cell('grid', recipe)} | {cell('grid-null', recipe)} |"
            for recipe, name in named.items()
        ),
        f"MoE of the dense model's total size against dense {cell('total')}; MoE against wide dense "
        f"{cell('wide')}; MoE of fewer tokens against dense {cell('early')}; dense against dense "
        "without code "
        f"{cell('narrow')}",
    )


def decades(
    first: str, second: str, recipe: str = "default", firings: int = 0
) -> tuple[float, float]:
    """Steps in density from common features to each side's own, in decades."""
    (row,) = (
        row
        for row in stored(STUDY, "claims")["sensitivity"]
        if (row["A"], row["B"], row["recipe"], row["firings"]) == (first, second, recipe, firings)
    )
    return row["density_moe_only_over_common"], -row["density_common_over_dense_only"]


@part
def densities_of_the_first_study(study: Document) -> None:
    moe, dense = decades("moe", "dense")
    seeds = decades("dense", "dense")
    study.says(
        f"(MoE +{moe:.2f} decades, dense +{dense:.2f}), and as much so between two dense models "
        f"({seeds[0]:.2f}, {seeds[1]:.2f})",
        "over those that fire on 100 rows or more it is "
        f"{' and '.join(f'{step:.2f}' for step in decades('moe', 'dense', firings=100))} decades, with k 8 "
        f"{' and '.join(f'{step:.2f}' for step in decades('moe', 'dense', 'k8', firings=100))}",
        "fires about four times as often as the median common one",
        f"The MoE's own features are {moe:.2f} denser than the common ones",
        "step of a tenth of a decade more",
    )
    assert 10**moe == pytest.approx(10**dense, rel=0.06) == pytest.approx(4, rel=0.06)


def first_panel(comparison: str, recipe: str = "default") -> dict[str, Any]:
    every = stored(STUDY, "panel")["panels"]
    (found,) = (one for one in every if (one["comparison"], one["recipe"]) == (comparison, recipe))
    return found


def of_kind(panel: dict[str, Any], kind: str, statistic: str) -> dict[str, Any]:
    (row,) = (
        row for row in panel["judged"] if (row["kind"], row["statistic"]) == (kind, statistic)
    )
    return row


@part
def panels_of_the_first_study(study: Document) -> None:
    panel, wide, narrow = (
        first_panel("panel"),
        first_panel("panel", "k32"),
        first_panel("panel-narrow"),
    )
    either = [of_kind(panel, kind, "features")["observed"] for kind in ("moe", "dense")]
    other = [
        max(of_kind(one, kind, name)["largest_other"] for kind in ("moe", "dense"))
        for one, name in ((panel, "features"), (panel, "share"), (wide, "features"))
    ]
    assert (
        either
        == [0, 0]
        == [of_kind(wide, kind, "features")["observed"] for kind in ("moe", "dense")]
    )
    own, share = (of_kind(narrow, "dense", name) for name in ("features", "share"))
    domains = narrow["own_domains"]["dense"]
    low, high = (percent(end) for end in share["interval"])
    study.says(
        f"Of {panel['live']:,} live features of one dictionary over all eight models "
        f"{panel['end']['all']:,} "
        "are used by all of them",
        f"under the {of_kind(panel, 'moe', 'features')['others']} other labellings up to {other[0]} "
        "are, with "
        f"up to {percent(other[1])} % of the variance",
        f"finds {own['observed']} features that every model with code uses and none without, at most "
        f"{own['largest_other']} under any other labelling. They carry {percent(share['observed'])} % "
        "of the "
        f"variance of these models ({low} to {high} % over documents; largest other labelling "
        f"{percent(share['largest_other'])} %; p 1/70, the smallest there is). Of "
        f"{domains['features']['code']} "
        f"of the {own['observed']} the top domain is code, which is "
        f"{percent(domains['explained']['code'], 0)} "
        "% of what they explain",
        f"the same recipe finds a difference of {percent(share['observed'], 0)} % where one was made",
        "2 % between dense models with code and without",
        f"those of code, with {percent(share['observed'])} %, were seen",
        f"with k 32 (run last, for this question) {wide['end']['all']:,} of {wide['live']:,} features "
        "are used "
        f"by all eight, none by one kind alone, {other[2]} at most under any other labelling",
    )
    assert share["p"] == pytest.approx(1 / 70)


@part
def panels_of_two_seeds(study: Document) -> None:
    two = first_panel("panel-two")
    own = [of_kind(two, kind, "features")["observed"] for kind in ("moe", "dense")]
    study.says(
        f"has {own[0]} features of both MoEs alone and {own[1]} of both dense models alone. Of so few "
        "models no "
        "p can be below 1/6 (1/3 for either kind)"
    )
    named = {
        "panel-two": "MoE, dense",
        "panel-total": "MoE of the dense model's total size (experts of 64), dense",
        "panel-wide": "MoE, dense of the MoE's total size (feed-forward of 2,048)",
        "panel-early": "MoE of 8 % fewer tokens, meant to end at the dense model's loss; dense",
    }
    ahead = []
    for comparison, name in named.items():
        found = first_panel(comparison)
        moe, dense = sorted(found["kinds"], key=lambda kind: not kind.startswith("moe"))
        sides = [
            f"{of_kind(found, kind, 'features')['observed']}, "
            f"{percent(of_kind(found, kind, 'share')['observed'], 2)} %"
            for kind in (moe, dense)
        ]
        share = of_kind(found, "either kind", "share")
        study.says(
            f"| {name} | {' | '.join(sides)} | {percent(share['observed'], 2)} % "
            f"({percent(share['largest_other'], 2)} %) |"
        )
        ahead.append(share["observed"] > share["largest_other"])
    assert ahead == [True, True, False, False]


@part
def shape_of_rows_of_the_first_study(study: Document) -> None:
    shares = {
        model: [
            row["baseline_pca"]
            for row in stored(STUDY, "fve")["rows"]
            if (row["comparison"], row["recipe"], row["mode"], row["source"])
            == (model, "default", "threshold", "pooled")
        ]
        for model in ("moe", "dense")
    }
    assert all(len(found) == 4 for found in shares.values())
    ends = {
        model: [percent(end(found), 0) for end in (min, max)] for model, found in shares.items()
    }
    study.says(
        f"the first 16 principal components explain {ends['moe'][0]} to {ends['moe'][1]} % of an MoE's "
        f"variance, {ends['dense'][0]} to {ends['dense'][1]} % of a dense model's"
    )


# --- Verdicts


def numbers(cell: str) -> list[tuple[float, float]]:
    """Numbers of a cell as they stand and half of what their last digit is worth; % applies to all of it."""
    scale = 100 if "%" in cell else 1
    found = re.findall(r"-?\d+(?:\.(\d+))?(?:e-?\d+)?", cell)
    whole = re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", cell)
    return [
        (float(number) / scale, 0.51 * 10 ** -len(digits) / scale)
        for number, digits in zip(whole, found, strict=True)
    ]


@part
def the_table_of_verdicts_is_that_of_the_stored_numbers(study: Document) -> None:
    again = judged_again(STUDY)
    text = (ROOT / "docs/study.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`( \*)?: (.*) \| (.*) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert [row[0] for row in rows] == list(again)
    for name, star, statement, estimate, null, verdict in rows:
        row = again[name]
        assert (bool(star), statement, verdict) == (
            row["primary"], row["statement"], row["verdict"],
        )  # fmt: skip
        wanted = [row["estimate"], *(row["interval"] or [])]
        against, _, p = null.partition("; p ")
        wanted += [row["reference"], row["minimum_effect"]]
        said = numbers(estimate) + numbers(against)
        for (number, half), value in zip(said, wanted, strict=True):
            assert number == pytest.approx(value, abs=half, rel=0.005), (name, number)
        if p:
            held = row["p_holm"] if row["primary"] else row["p"]
            assert float(p) == pytest.approx(held, rel=0.005)
        study.says(f": {statement} | {estimate} | {null} | {verdict} |")


@part
def what_is_said_of_verdicts(study: Document) -> None:
    again = judged_again(STUDY)
    fewer, density = again["moe_only_fewer"], again["density_common_over_dense_only"]
    bound = zero_bound(4)
    firings = read_claims(ROOT / "config/claims.yaml")["limits"]["firings_per_feature"]
    study.says(
        "(version 4) on the numbers that were stored by version 3",
        f"(p {fewer['p_holm']:.3f} after Holm) by a factor of {2 ** -fewer['estimate']:.1f}, the "
        "claim asks for "
        "two",
        f"So few models exclude no share below {bound:.2f}",
        f"below its null by {density['reference'] - density['estimate']:.2f} (p 1/70 in the direction",
        "p after Holm is 0.05 or less",
        "half of 0.05 each",
        "p of densities is 1/2 or 1 because",
        "stored by version 3, as a test holds them",
        "verdict by version 3 of the judge",
        f"median feature of each class fire on {firings} rows, which version 3 asked of the mean",
        f"carry the {percent(again['panel_either']['minimum_effect'], 0)} % that the claims ask for",
        "not because 16 active features are too few",
        "`common_cosine_opposed`: 0 in every pair of four MoEs",
        f"about 3.7 / n: 1 % can be excluded from {math.ceil(math.log(0.025) / math.log(0.99))} "
        "documents on",
        "a gain of 0.01 in FVE",
    )
    assert -math.log(0.025) == pytest.approx(3.7, abs=0.05)
    assert tails_of(density)["below"] == pytest.approx(1 / 70)
    changed = {
        name
        for row in stored(STUDY, "claims")["claims"]
        for name in [row["id"]]
        if row["verdict"] != again[name]["verdict"]
    }
    assert len(changed) == 8


# --- What is no measurement, and what only configs hold


@part
def sizes_are_those_of_the_configs(study: Document) -> None:
    config = {
        name: yaml.safe_load((ROOT / f"config/{name}.yaml").read_text(encoding="utf-8"))
        for name in ("study", "kinds")
    }
    first, second = config["study"], config["kinds"]
    tokens, recipe = first["corpus"]["tokens"], first["recipes"]["default"]
    dense, moe = (first["models"][name]["train"] for name in ("dense", "moe"))
    early = first["models"]["moe-early"]["sees"]["share"] * tokens["train"]
    paper = first["recipes"]["paper"]
    of_second = {"experts": 1, "top_k": 1, "renormalise": False} | second["models"]["dense"][
        "train"
    ]
    with torch.device("meta"):
        active = count_parameters(build(of_second, 2048, 256, 0, 0)).active
    steps = pl.read_parquet(KINDS / "losses.parquet")["step"].max()
    assert first["training"]["peak_lr"] == [0.003, 0.006]
    assert second["training"]["peak_lr"] == 0.003
    assert second["models"]["dense-fast"]["training"]["peak_lr"] == 0.006
    study.says(
        f"| width, layers | {dense['d_model']}, {dense['layers']} |",
        f"| {moe['experts']} experts of {moe['ffn']}, two active, against a feed-forward of "
        f"{dense['ffn']}: ",
        f"| training tokens | {tokens['train'] / 1e6:.2f}M a model ({early / 1e6:.2f}M of the MoEs of "
        "fewer)",
        f"| {len(first['training']['seeds'])} + 4 seeds, the better of two peak rates each (all MoEs "
        "0.006, "
        "dense ones 0.003)",
        f"| features, k | {recipe['features']:,} ({recipe['features'] // dense['d_model']} times the "
        "width), "
        f"{recipe['k']} |",
        f"| rows to fit | {recipe['rows'] / 1e6:.0f}M, {recipe['rows'] / tokens['fit']:.0f} times over "
        f"{tokens['fit'] / 1e6:.2f}M |",
        f"(k {paper['k']}, {paper['rows'] / 1e6:.1f}M rows, batches of {paper['batch']})",
        "all MoEs were trained at 0.006, all dense models at 0.003",
        "at a peak rate of 0.003 and as many at 0.006",
        "MoEs of 2, 4 and 16 experts",
        f"a width of {of_second['d_model']}, {of_second['layers']} layers, about {active / 1e6:.2f}M "
        "active "
        f"parameters and a vocabulary of {second['corpus']['tokenizer']['train']:,}, the MoEs "
        f"{second['models']['moe']['train']['experts']} experts of which a token uses two, and "
        f"{second['corpus']['tokens']['train'] / 1e6:.2f}M tokens to learn from, in {steps:,} steps; "
        "rows are "
        "the residual stream after layer 2 of layers 0 to 3",
    )
    vocabulary = first["corpus"].get("tokenizer", {}).get("train", 4096)  # the schema's default
    sizes = {}
    for name, train in {"dense": {"experts": 1, "top_k": 1} | dense, "moe": dense | moe}.items():
        settings = {"renormalise": False} | train
        with torch.device("meta"):
            sizes[name] = count_parameters(build(settings, vocabulary, 256, 0, 0))
    study.says(
        f"{sizes['moe'].active / 1e6:.2f}M and {sizes['dense'].active / 1e6:.2f}M active parameters, "
        f"{sizes['moe'].total / 1e6:.1f}M and {sizes['dense'].total / 1e6:.1f}M in all",
        f"a BPE of {vocabulary:,} trained on it",
    )


NO_MEASUREMENT = (
    # Of the paper and of the text: where they are from.
    "2603.05805",
    "| 768, 5 |",
    "| 8 experts, two active, equal active size |",
    "GPT-2's",
    "about 1B, twice",
    "| 1 + 1 |",
    "cuts at 150 tokens",
    "24,576 (32 times); k is not stated, 300 in its code",
    "82M, 3 times over 26M",
    "code of 36 public repositories",
    "(CC BY 4.0)",
    "(CC0)",
    "from 1927 or earlier",
    # Rules and arithmetic, which hold whatever is measured.
    "at least 0.2 of an equal part, which with eight models is 0.2 / 8 = 2.5 %",
    "less than 10 % of the sum and the MoEs more than 90 %",
    "is at 4.2 % in each dense model",
    "relative decoder norm is below 0.3 or above 0.7",
    "95 % interval",
    "256 tokens, packed",
    "Tied cosines are 1 by construction",
    "the two experts chosen in layer 2",
    "that layer 2 has just written to",
    "zero has no interval; and version 4 asks",
)


@pytest.mark.parametrize("check", PARTS, ids=lambda check: check.__name__)
def test_a_part_of_the_document_says_what_is_stored(check: Part) -> None:
    check(Document(PAGE))


def test_no_number_of_the_document_is_left_over() -> None:
    page = Document(PAGE)
    for check in PARTS:
        check(page)
    page.says(*NO_MEASUREMENT)
    assert page.untold() == []


def test_the_readme_has_the_table_of_the_second_study() -> None:
    readme = Document(ROOT / "README.md")
    for comparison in COMPARED:
        least = {
            row["least"] is None and row["largest_tried"]
            for row in panels(comparison)[0]["detectable"]
        }
        told = {frozenset(): "not tried", frozenset({0.03}): "not up to 3 %"}[frozenset(least)]
        readme.says(f"{compared(comparison)} {told} |")
