"""The strongest true sentence of a study, and how often such a sentence is false.

In this order: a claim with a verdict, what is there before what is absent; a panel of models enough against
its other labels; classes of the pair beside their controls; a smaller panel; else how much a dictionary
explains, beside principal components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moediff.analysis import controls
from moediff.analysis.kinds import GRADED
from moediff.analysis.measured import at_inference
from moediff.analysis.panel import EITHER
from moediff.claims import verdicts
from moediff.core.terms import KNOWN
from moediff.report.labels import class_names, member_label, percent, sides_of

Record = Mapping[str, Any]
# The strongest first, and what the sentence begins with.
SAID = {
    verdicts.SHOWN: "Shown",
    verdicts.OPPOSITE: "The opposite was shown",
    verdicts.SMALLER: "There, but smaller than the claim asks for",
    verdicts.OPPOSITE_SMALLER: "The opposite is there, but smaller than the claim asks for",
    verdicts.ABSENT: "Absent",
    verdicts.NOTHING_SEEN: "Nothing seen",
}
RANK = tuple(SAID)
FREE = (*controls.EXCLUSIVE, controls.COMMON)
# Metrics of how a dictionary was fitted: true of the method, and said of no model.
OF_FITTING = {
    "fve_pooled", "fve_gain_last_quarter", "fve_gain_shared_penalty", "tied_cosine_lowest",
    "common_cosine_median", "common_cosine_negative_share", "relative_norm_side_modes",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A sentence, how sure it is, and the chart that shows it best."""

    sentence: str
    error: str
    chart: str


def strongest(
    study: Record,
    panels: Sequence[Record],
    kinds: Sequence[Record],
    counted: Record,
    metrics: Sequence[Record],
    pair: Record | None,
) -> Finding | None:
    """The first of `claim`, `graded`, `panel`, `classes` and `explained` that there is; None without a
    dictionary.

    `study` is what claims.json holds, `kinds` the panels of kinds.json, `counted` what classes.json does,
    `pair` the record of the dictionary that is drawn, one of `metrics`.
    """
    return (
        claim(study["claims"], study["alpha"], study["exploratory"])
        or graded(kinds, study["alpha"])
        or panel(panels, study["alpha"])
        or classes(pair, counted)
        or panel(panels)
        or explained(pair, metrics)
    )


def claim(claims: Sequence[Record], alpha: float, exploratory: str | None = None) -> Finding | None:
    """The claim with the strongest verdict: one about models before one about fitting, by its word as SAID
    lists them, primary before others, and then as they were listed. `exploratory` says why all are."""
    decided = [one for one in claims if one["verdict"] in RANK]
    if not decided:
        return None
    best = min(
        decided,
        key=lambda one: (
            one["metric"] in OF_FITTING, RANK.index(one["verdict"]), not one["primary"],
        ),
    )  # fmt: skip
    numbers = f"{best['estimate']:.3g}"
    if best["interval"]:
        low, high = best["interval"]
        numbers += f" (95 % interval {low:.3g} to {high:.3g})"
    against = f", against {best['reference']:.3g}"
    error = f"Judged by the whole interval against a value fixed before: {best['reason']}."
    if best["null"]["kind"] != KNOWN:
        error = f"Held against {best['null']['kind']}: {best['reason']}."
    if best["primary"]:
        error += f" The chance of any false primary claim is {100 * alpha:g} % at most."
    if exploratory:
        error += f" Exploratory: {exploratory}."
    chart = "panel" if best["metric"].startswith("panel_") else "classes"
    begins = f"Exploratory. {SAID[best['verdict']]}" if exploratory else SAID[best["verdict"]]
    return Finding(f"{begins}: {best['statement']} Measured: {numbers}{against}.", error, chart)


def graded(kinds: Sequence[Record], alpha: float) -> Finding | None:
    """How differently two kinds spend explained variance, of the panel whose kinds R2 divides most.

    None where no panel has a p of `alpha` once it is multiplied by the panels that there are.
    """
    panels = [
        (one, {row["statistic"]: row for row in one["judged"]})
        for one in kinds
        if one.get("judged")
    ]
    found = [
        (one, rows, worst)
        for one, rows in panels
        if (worst := len(panels) * max(rows[name]["p"] for name in GRADED)) <= alpha
    ]
    if not found:
        return None
    one, rows, worst = max(found, key=lambda each: each[1]["r2"]["observed"])
    first, second = one["kinds"]
    row = rows["total_variation"]
    said = (
        f"Models {first} and {second} divide {percent(row['observed'])} of what is explained in them "
        "differently among the same features; put into any other two groups of these sizes, the same "
        f"models differ in {percent(row['largest_other'])} at most."
    )
    most = max(one["by_domain"], key=lambda part: part["more"], default=None)
    if most and most["domain"]:
        share = percent(most["more"] / row["observed"])
        said += (
            f" Of what {most['kind']} gives more to some of them, {share} goes to features that fire most "
            f"on {most['domain']}, which are {percent(_of_features(most['domain'], one))} of all."
        )
    error = f"p {worst:.3g}, of all {row['others'] + 1} ways to split these models in two"
    if len(panels) > 1:
        error += f", times the {len(panels)} panels that were judged"
    least = f"with so few models the smallest that there can be is {row['smallest_p']:.3g}"
    return Finding(said, f"{error}; {least}.", "splits")


def _of_features(domain: str, panel: Record) -> float:
    """The share of a panel's features that fire most on a domain, of those that kinds use differently."""
    own = sum(part["features"] for part in panel["by_domain"] if part["domain"] == domain)
    return own / sum(part["features"] for part in panel["by_domain"])


def panel(panels: Sequence[Record], alpha: float = 1.0) -> Finding | None:
    """What features of one kind alone carry in the panel with most other labels, where these are enough for
    a p of `alpha`."""
    rows = [
        (one, row)
        for one in panels
        for row in one["judged"]
        if row["kind"] == EITHER and row["statistic"] == "share" and row["smallest_p"] <= alpha
    ]
    if not rows:
        return None
    one, row = max(rows, key=lambda found: found[1]["others"])
    kinds = " or ".join(one["kinds"])
    above = row["observed"] > row["largest_other"]
    low, high = (percent(share, 2) for share in row["interval"])
    than = "more than" if above else "not more than"
    return Finding(
        f"Features of one kind alone ({kinds}) carry {percent(row['observed'], 2)} (95 % "
        f"interval {low} to {high}) of the models' variance, {than} under any of {row['others']} other "
        "labels of the same models "
        f"({percent(row['largest_other'], 2)} at most).",
        f"p {row['p']:.3g}; with so few models the smallest that there can be is {row['smallest_p']:.3g}.",
        "panel",
    )


def classes(pair: Record | None, counted: Record) -> Finding | None:
    """The share of features that are one model's alone, over all dictionaries of the pair's comparison and
    recipe as the chart has it, where a control says how often that is false."""
    if pair is None:
        return None
    alike = [row for row in counted["rows"] if _alike(row, pair)]
    counts = {name: sum(row["count"] for row in alike if row["class"] == name) for name in FREE}
    share = controls.exclusive_share(counts)
    rates = {
        row["control"]: row for row in counted["error_rates"] if row["recipe"] == pair["recipe"]
    }
    false = rates.get(controls.OTHER_SEED) or rates.get(controls.ROTATED)
    if share is None or false is None:
        return None
    sides = sides_of(pair["member"])
    each = ", ".join(f"{counts[name]:,} {called}" for name, called in class_names(sides).items())
    pairs = len({(row["member"], row["seed"]) for row in alike})
    over = f" in {pairs} dictionaries" if pairs > 1 else ""
    where = (
        "between two seeds of one model" if controls.OTHER_SEED in rates else "of a rotated copy"
    )
    share_false = percent(false["exclusive"])
    error = f"Error rate: {where}, where nothing differs, the same rule calls {share_false} so"
    if false["dictionaries"] > 1:
        error += f" ({percent(false['lowest'])} to {percent(false['highest'])} in {false['dictionaries']})"
    return Finding(
        f"{percent(share)} of the features of {' and '.join(sides)} are one model's alone ({each}; "
        f"{counts[controls.COMMON]:,} are common{over}).",
        error + ".",
        "classes",
    )


def _alike(row: Record, pair: Record) -> bool:
    """Whether a row of classes.json is of the pair's comparison and recipe."""
    return (row["comparison"], row["recipe"]) == (pair["comparison"], pair["recipe"])


def explained(pair: Record | None, metrics: Sequence[Record]) -> Finding | None:
    """How much of the variance a dictionary explains, beside as many principal components."""
    if not metrics:
        return None
    record = pair or metrics[0]
    row = at_inference(record)
    names = " and ".join(sides_of(record["member"]))
    if len(record["sources"]) > 2:
        names = member_label(record["member"])
    error = "A baseline on the same rows, not an error rate."
    if len(record["sources"]) == 2:
        error += (
            " No control of this recipe was run, so how often it calls a feature one model's alone by "
            "mistake is not known."
        )
    return Finding(
        f"One dictionary explains {percent(row['fve'])} of the variance of {names} with "
        f"{row['l0']:.1f} of {record['features']:,} features a row, on {row['rows']:,} rows that it was "
        f"not fitted on; {row['k']} principal components explain {percent(row['baseline_pca'])}.",
        error,
        "relative-norm" if len(record["sources"]) == 2 else "fve",
    )
