"""The tables of the page: from what stages wrote to rows, each a dictionary by the heads of its columns.

A table without rows is left out. Of one dictionary or panel all that is known stands in one record, as
metrics.json, classes.json and panel.json have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import polars as pl

from moediff.analysis import controls
from moediff.claims import verdicts
from moediff.config.base import ROW_SPLITS
from moediff.config.layout import Source
from moediff.config.rows import row_patterns
from moediff.core.terms import ALL
from moediff.report import kinds_tables
from moediff.report.changes import clean_losses
from moediff.report.kinds_tables import Record, Row
from moediff.report.labels import label_of, sides_of

JUDGED = (
    "kind", "statistic", "observed", "interval", "largest_other", "median_other", "others", "p",
)  # fmt: skip
EXPLAINED = (
    "source", "mode", "fve", "baseline_pca", "baseline_mean", "k", "l0", "dead_share",
    "firings_per_feature",
)  # fmt: skip
# Heads of the metrics of pairs: the first model need not be an MoE here.
SENSITIVITY = {
    "recipe": "recipe", "first": "A", "second": "B", "pairs": "pairs", "least firings": "firings",
    "fve": "fve_pooled", "share only in first": "moe_only_feature_share",
    "only in second": "dense_only_feature_share",
    "log2 only first / only second": "log2_moe_only_over_dense_only",
    "log10 density only first / common": "density_moe_only_over_common",
    "log10 density common / only second": "density_common_over_dense_only",
    "exclusive variance": "exclusive_variance",
}  # fmt: skip


def of_study(
    study: Record,
    panels: Sequence[Record],
    kinds: Sequence[Record],
    trends: Sequence[Record],
    over_seeds: Sequence[Record],
    counted: Record,
    metrics: Sequence[Record],
    parameters: Mapping[str, Record],
    losses: Mapping[str, Record],
    external: Mapping[str, Any],
) -> dict[str, list[Row]]:
    """Every table of the page that has rows, by its heading and in order.

    `study` is what claims.json holds, `kinds` the panels of kinds.json and `trends` its trends,
    `over_seeds` the rows so called of both panel.json and kinds.json, `counted` what classes.json does,
    `parameters` the counts and `losses` the cross-entropies of each language model, `external` the
    settings of models whose rows other code wrote.
    """
    tables = {
        "The panel: features of one kind of model alone, against all other labels": judged(panels),
        "Domains of the features of one kind alone": domains(panels),
        "Kinds, graded: how well they divide the models, against all other splits": kinds_tables.graded(
            kinds
        ),
        "Panels over dictionary seeds: what another fit of the same models changes": kinds_tables.by_seeds(
            over_seeds
        ),
        "Models by dose: how far they lie from those of the smallest": kinds_tables.by_dose(trends),
        "Features that one kind uses more": kinds_tables.catalogue(kinds),
        "What would have been seen: the least planted share of variance": kinds_tables.detectable(
            kinds
        ),
        "Features by class, beside what controls of known answer show": classes(metrics, counted),
        "Share of each source's variance that goes with a class": class_shares(counted),
        "Fraction of validation variance explained": explained(metrics),
        "Cross-entropy (nats a token)": by_model(losses),
        "Models: parameters": by_model(parameters),
        "External activations": external_rows(external),
        "Rows kept and left out": rows_kept(metrics),
        "Every analysis: metrics of pairs by recipe and models, without verdicts": sensitivity(
            study
        ),
    }
    return {heading: rows for heading, rows in tables.items() if rows}


# --- claims and panels ---


def claims(study: Record) -> list[Row]:
    """Claims and their verdicts; reasons that withhold every verdict are said once above the tables."""
    return [
        {
            "claim": claim["statement"],
            "verdict": claim["verdict"],
            "primary": "yes" if claim["primary"] else "",
            **{
                key: claim[key]
                for key in ("estimate", "interval", "reference", "minimum_effect", "p_holm")
            },
            "reason": "; ".join(
                part for part in claim["reason"].split("; ") if part not in study["withheld"]
            ),
        }
        for claim in study["claims"]
    ]


def decided(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Claims that have a verdict, and those that have none or were not measured."""
    with_verdict = [row for row in rows if row["verdict"] in verdicts.VERDICTS]
    return with_verdict, [row for row in rows if row["verdict"] not in verdicts.VERDICTS]


def why_undecided(rows: Sequence[Row], study: Record) -> str:
    """One line on claims without a verdict: how many there are of each kind, and why."""
    missing = sum(row["verdict"] == verdicts.NOT_MEASURED for row in rows)
    held = len(rows) - missing
    why = "; ".join(study["withheld"]) or "the reason stands beside each"
    parts = [f"No verdict on {_claims(held)}: {why}"] if held else []
    if missing:
        parts.append(f"{_claims(missing)} not measured here: {_unmeasured(study)}")
    return "; ".join(parts) + "."


def _unmeasured(study: Record) -> str:
    """Why claims were not measured, as far as it is one reason for all."""
    named, found = study["primary"], study["analysis"]
    if found["moe"] and found["dense"]:
        return "what each needs stands beside it"
    return (
        f"they are about a Mixture of Experts called {named['moe']} and a dense model called "
        f"{named['dense']}"
    )


def _claims(count: int) -> str:
    return "1 claim" if count == 1 else f"{count} claims"


def sensitivity(study: Record) -> list[Row]:
    """The same metrics of all pairs, by recipe and models."""
    return [{head: row[key] for head, key in SENSITIVITY.items()} for row in study["sensitivity"]]


def judged(panels: Sequence[Record]) -> list[Row]:
    """What is one kind's own in every panel, beside the same under other labels."""
    return [
        {"dictionary": label_of(panel), **{key: row.get(key) for key in JUDGED}}
        | {"groups of documents": panel["text_groups"][ALL]}
        for panel in panels
        for row in panel["judged"]
    ]


def domains(panels: Sequence[Record]) -> list[Row]:
    """In which domains the features of one kind alone fire most, and what they explain there."""
    return [
        {
            "dictionary": label_of(panel),
            "kind": kind,
            "domain": domain,
            "features": count,
            "share of what they explain": own["explained"][domain],
        }
        for panel in panels
        for kind, own in panel["own_domains"].items()
        for domain, count in own["features"].items()
    ]


# --- dictionaries ---


def classes(metrics: Sequence[Record], counted: Record) -> list[Row]:
    """Features by class of dictionaries over two sources, beside the error rates of their recipe."""
    rates = {(row["recipe"], row["control"]): row["exclusive"] for row in counted["error_rates"]}
    pairs = [record for record in metrics if len(record["sources"]) == 2]
    sides = [sides_of(record["member"]) for record in pairs]
    of_one = len(set(sides)) == 1  # then they stand in the heads
    return [
        {
            "dictionary": label_of(record),
            "k": record["k"],
            "features": record["features"],
            **_alone(record["classes"], first, second, of_one),
            "tied": record["classes"]["tied"],
            "dead": record["classes"]["dead"],
            "exclusive share": controls.exclusive_share(record["classes"]),
            **{
                f"of {control}": rates.get((record["recipe"], control))
                for control in controls.CONTROLS
            },
        }
        for record, (first, second) in zip(pairs, sides, strict=True)
    ]


def _alone(counts: Mapping[str, int], first: str, second: str, of_one: bool) -> Row:
    """Counts of free features; the names of the two models in the heads, or beside each count."""
    if of_one:
        return {
            f"only {first}": counts["A-only"],
            "common": counts["common"],
            f"only {second}": counts["B-only"],
        }
    return {
        "first": first,
        "only first": counts["A-only"],
        "common": counts["common"],
        "second": second,
        "only second": counts["B-only"],
    }


def class_shares(counted: Record) -> list[Row]:
    """Share of a source's variance that goes when a class is deleted: a row a dictionary and source."""
    shares: dict[tuple[str, str], Row] = {}
    for row in counted["rows"]:
        if row["class"] == "dead":
            continue
        called = {"A-only": row["sources"][0], "B-only": row["sources"][1]}
        for source in row["sources"]:
            name = label_of(row)
            about = shares.setdefault((name, source), {"dictionary": name, "source": source})
            own = called.get(row["class"])
            head = row["class"] if own is None else "its own" if own == source else "the other's"
            about[head] = row["shares"][source]
    order = ("dictionary", "source", "its own", "common", "the other's", "tied")
    return [{head: about[head] for head in order if head in about} for about in shares.values()]


def explained(metrics: Sequence[Record]) -> list[Row]:
    """Variance explained by every dictionary, by source and mode, beside its baselines."""
    return [
        {"dictionary": label_of(record), **{key: row[key] for key in EXPLAINED}}
        for record in metrics
        for row in record["fve"]
    ]


# --- models and rows ---


def mean_losses(ends: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Cross-entropy of each model by domain, the mean over its seeds, from that of each seed."""
    return {
        model: {domain: mean(end[domain] for end in seeds) for domain in seeds[0]}
        for model, seeds in ends.items()
    }


def cross_entropies(
    trained: Mapping[str, Record], splicing: Sequence[pl.DataFrame], levels: Mapping[str, Record]
) -> dict[str, Record]:
    """What is known of each model: of one trained here on all validation tokens, of a loaded one on those
    on which it was run again, and the n-grams' levels.

    A column says which, where both are there.
    """
    again = {
        model: row
        for table in splicing
        for model, row in again_losses(clean_losses(table)).items()
        if model not in trained
    }
    if not again:
        return {**trained, **levels}
    whole = {
        model: {"over": "all validation", **row} for model, row in {**trained, **levels}.items()
    }
    return {model: whole.get(model) or again[model] for model in [*trained, *again, *levels]}


def again_losses(clean: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Cross-entropy by domain of models that were run again, from their losses as they are."""
    found: dict[str, dict[str, Any]] = {}
    for row in clean.iter_rows(named=True):
        model = Source.parse(row["source"]).model
        found.setdefault(model, {"over": ""})[row["domain"]] = row["cross_entropy"]
        if row["domain"] == "all":
            found[model]["over"] = f"{row['tokens']:,} tokens"
    return found


def ngram_levels(rows: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Cross-entropy of each n-gram model by domain, from the rows of ngrams.json."""
    levels: dict[str, dict[str, float]] = {}
    for row in rows:
        levels.setdefault(row["model"], {})[row["domain"]] = row["cross_entropy"]
    return levels


def by_model(facts: Mapping[str, Record]) -> list[Row]:
    """A row a model of whatever is known of each."""
    return [{"model": model, **known} for model, known in facts.items()]


def external_rows(external: Mapping[str, Any]) -> list[Row]:
    """Where external activations were read, by split."""
    return [
        {
            "model": model,
            "split": split,
            "array": rows["array"],
            "read from": ", ".join(row_patterns(rows, split)),
        }
        for model, rows in external.items()
        for split in ROW_SPLITS
    ]


def rows_kept(metrics: Sequence[Record]) -> list[Row]:
    """Rows kept of every model and split, and the share of its tokens left out, by reason.

    Where tokenizers differ, also the share of comparable rows that all of them end at, and the
    share of word ends among these rows and among the kept: the bias of the choice.
    """
    once = {
        (about["model"], about["seed"], about["split"]): about
        for record in metrics
        for about in record["rows"]
    }
    kept = list(once.values())
    reasons = list(dict.fromkeys(name for about in kept for name in about["left_out"]))
    aligned = any(about["alignment"] for about in kept)
    shares = ("share_kept", "word_ends", "word_ends_kept") if aligned else ()
    return [
        {
            "source": f"{about['model']}.{about['seed']}",
            "split": about["split"],
            "tokens": about["tokens"],
            "rows": about["rows"],
            **{name.replace("_", " "): about["share_left_out"].get(name) for name in reasons},
            **{name.replace("_", " "): (about["alignment"] or {}).get(name) for name in shares},
        }
        for about in kept
    ]
