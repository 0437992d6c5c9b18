"""What docs/study.md says of kinds crossed with rates, from the files of that study."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from moediff.analysis import permanova, trend
from moediff.analysis.differential import Q
from stored import stored
from told import Document, both, part, percent
from workflow import ROOT

KINDS = ROOT / "docs/reference/kinds"
COMPARED = {
    "kind": "MoE, dense; rate 0.003",
    "kind-fast": "MoE, dense; rate 0.006",
    "rate-moe": "MoE at rates 0.003, 0.006",
    "rate-dense": "dense at rates 0.003, 0.006",
    "narrow": "dense with code, without",
}


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


def excesses(comparison: str, recipe: str = "default") -> list[float]:
    """What kinds spend differently above other labels, in percent."""
    return [
        100 * value(one, "total_variation", "excess_over_mean")
        for one in panels(comparison, recipe)
    ]


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
        for dense, rows in (("all", table), ("0.1 to 1 %", rare)):
            medians = rows.group_by("more").agg(1000 * pl.col("whole_corrected").median())
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
