"""From the files of a finished study to the judgement of its claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import polars as pl

from moediff.analysis.measured import at_inference
from moediff.claims import findings, judging
from moediff.config import layout
from moediff.core import artifact
from moediff.core.terms import ALL
from moediff.training import history

# Columns of a table of features that claims ask about.
COLUMNS = ["class", "density", "relative_norm", "decoder_cosine", "top_domain_share"]


@dataclass
class Evidence:
    """What the files of a study say, as far as claims ask.

    Dictionaries are called `member/seed`, models `model/seed-0`, as in reasons to withhold.
    """

    pairs: list[findings.Pair] = field(default_factory=list)
    panels: list[dict[str, Any]] = field(default_factory=list)  # of the primary analysis
    detectable: list[dict[str, Any]] = field(default_factory=list)  # least effects seen, of a panel
    panel_losses: list[dict[str, Any]] = field(default_factory=list)
    known_panels: list[dict[str, Any]] = field(default_factory=list)  # whose answer is known
    # Of the median feature of each class, by dictionary.
    firings: dict[str, dict[str, float]] = field(default_factory=dict)
    counts: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # by class: early, at the end
    final_losses: dict[str, float] = field(default_factory=dict)  # by model, over all domains
    trigram: float | None = None  # cross-entropy of the same tokens
    exclusive: dict[str, float | None] = field(default_factory=dict)  # called so, by control


def gather(
    primary: Mapping[str, Any],
    metrics: Sequence[str],
    features: Sequence[str],
    deletion: Sequence[str],
    panels: Sequence[str],
    panel_metrics: Sequence[str],
    panel_features: Sequence[str],
    detectable: Sequence[str],
    panel_losses: Sequence[str],
    known_panels: Sequence[str],
    histories: Sequence[str],
    ngrams: Sequence[str],
    classes: str,
) -> Evidence:
    """Read the files of pairs, panels, models and controls. `primary` is the analysis that is judged."""
    evidence = Evidence()
    kinds = {primary["moe"], primary["dense"]}
    for paths in zip(metrics, features, deletion, strict=True):
        about = artifact.read_json(paths[0])
        pair, row = read_pair(about, paths[1], artifact.read_json(paths[2]))
        evidence.pairs.append(pair)
        if pair.recipe == primary["recipe"] and kinds.issuperset(pair.kinds):
            name = f"{row['member']}/{row['seed']}"
            evidence.firings[name] = median_firings(pair.features, row["rows"])
            early, end = (
                {kind: counted["classes"][kind] for kind in findings.FREE_CLASSES}
                for counted in (about["early"], about)
            )
            evidence.counts[name] = early, end
    evidence.panels, evidence.panel_losses, evidence.known_panels = (
        [artifact.read_json(path) for path in paths]
        for paths in (panels, panel_losses, known_panels)
    )
    for panel, path, features_path in zip(
        evidence.panels, panel_metrics, panel_features, strict=True
    ):
        (row, *_) = artifact.read_json(path)["fve"]
        name = f"{row['member']}/{row['seed']}"
        table = artifact.read_parquet(features_path, ["class", "density"])
        evidence.firings[name] = median_firings(table, row["rows"])
        evidence.counts[name] = panel["early"], panel["end"]
    for path in detectable:
        evidence.detectable += artifact.read_json(path)["least"]
    for path in histories:
        where = layout.parse("model", path)
        if where["model"] in kinds:
            losses = history.final_losses(history.read(path))
            evidence.final_losses[layout.run_name(where["model"], where["seed"])] = losses["all"]
    evidence.trigram = trigram(ngrams)
    evidence.exclusive = {
        row["control"]: row["exclusive"]
        for row in artifact.read_json(classes)["error_rates"]
        if row["recipe"] == primary["recipe"]
    }
    return evidence


def trigram(paths: Sequence[str]) -> float | None:
    """Cross-entropy of the trigram over all text, in nats a token; None without such a file."""
    for path in paths:
        for row in artifact.read_json(path)["rows"]:
            if (row["model"], row["domain"]) == ("trigram", ALL):
                return float(row["cross_entropy"])
    return None


def read_pair(
    metrics: Mapping[str, Any], features: str, deletion: Mapping[str, Any]
) -> tuple[findings.Pair, dict[str, Any]]:
    """A pair of models from its files, and its row of the pooled FVE at the threshold."""
    row = at_inference(metrics)
    shares = {one["class"]: one["shares"] for one in deletion["classes"]}
    sources = tuple(metrics["sources"])
    alone = zip((findings.A, findings.B), sources, strict=True)
    exclusive = mean(shares[name][source] for name, source in alone)
    table = artifact.read_parquet(features, COLUMNS)
    early = metrics["early"]["fve"]
    pair = findings.Pair(sources, row["recipe"], row["fve"], early, table, exclusive, row["rows"])
    return pair, row


def median_firings(features: pl.DataFrame, rows: int) -> dict[str, float]:
    """On how many of so many rows the median feature of each class fires; dead and tied ones are in none.

    A class without features is left out: nothing rests on it.
    """
    free = features.filter(~pl.col("class").is_in(["dead", "tied"]))
    medians = free.group_by("class").agg(pl.col("density").median()).sort("class")
    # A median of counts is a multiple of one half, which a share times rows is but for rounding.
    return {name: round(2 * share * rows) / 2 for name, share in medians.iter_rows()}


def judged(
    claims: Mapping[str, Any],
    evidence: Evidence,
    analysis: Mapping[str, Any],
    whole: Sequence[str],
    penalties: str,
) -> dict[str, Any]:
    """What the study says of every claim: the content of claims.json.

    `analysis` is how it was measured, `whole` the models that learned all text, `penalties` why the two
    recipes that are compared by penalty do not tell (empty: they do).
    """
    primary, compared = claims["primary"], claims["penalties"]
    kinds = {primary["moe"], primary["dense"]}

    def of(recipe: str) -> list[findings.Pair]:
        """The pairs of a recipe over the two models that the claims are about."""
        return [
            pair
            for pair in evidence.pairs
            if pair.recipe == recipe and kinds.issuperset(pair.kinds)
        ]

    named = {source for pair in evidence.pairs for source in pair.models}
    for panel in evidence.panels:
        named |= {source for sources in panel["kinds"].values() for source in sources}
    moes = {source for source in named if findings.model_of(source) == primary["moe"]}
    measured = findings.pair_findings(of(primary["recipe"]), moes)
    measured |= findings.penalty_findings(of(compared["strong"]), of(compared["weak"]), moes)
    sees = findings.sees_a_difference(evidence.known_panels, whole, claims["alpha"])
    measured |= findings.panel_findings(
        evidence.panels, moes, "variance", sees, evidence.detectable
    )
    measured |= findings.panel_findings(evidence.panel_losses, moes, "loss", sees)
    for name in ("fve_gain_shared_penalty", "tied_cosine_lowest"):
        if name in measured and penalties:
            measured[name]["withheld"] = [penalties]
    withheld = judging.reasons_to_withhold(
        claims["limits"],
        evidence.final_losses,
        evidence.trigram,
        evidence.firings,
        evidence.counts,
        evidence.exclusive,
    )
    judgement = judging.judge(claims, measured, analysis, withheld)
    least = claims["limits"]["firings_per_feature"]
    return judgement | {"sensitivity": findings.sensitivity(evidence.pairs, least)}
