"""What a reader must be told beside the numbers: warnings of one line, and what a run can and cannot say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moediff.analysis import controls

Record = Mapping[str, Any]
WORSE = 0.02  # nats: an MoE this much worse than a dense model is said in the first lines


def warnings(
    losses: Mapping[str, float], trigram: float | None, moes: set[str], barely: float
) -> list[str]:
    """Everything that must be read right after the first sentence, one line each.

    `losses` is each trained model's last validation cross-entropy in nats a token (the mean over seeds),
    `trigram` that of the n-grams (None without a language model), `moes` names the models that are
    Mixtures of Experts, `barely` is by how many nats a model must beat the n-grams to be evidence.
    """
    return [*_barely_trained(losses, trigram, barely), *_worse(losses, moes)]


def _barely_trained(losses: Mapping[str, float], trigram: float | None, barely: float) -> list[str]:
    weak = [
        name for name, loss in losses.items() if trigram is not None and trigram - loss <= barely
    ]
    if not weak:
        return []
    listed = ", ".join(f"{name} {losses[name]:.3f}" for name in weak)
    return [
        "This holds of these models. It is no evidence of what larger ones do, since these are barely "
        f"trained: a trigram, which only counts runs of three tokens, has a loss of {trigram:.3f} nats a "
        f"token, these models of: {listed}."
    ]


def _worse(losses: Mapping[str, float], moes: set[str]) -> list[str]:
    found = []
    for moe, gaps in _gaps(losses, moes).items():
        worse = [f"{other} by {gap:.3f}" for other, gap in gaps.items() if gap > WORSE]
        if worse:
            found.append(
                f"{moe} models text worse than {', '.join(worse)} nats a token: what differs may be quality."
            )
    return found


def _gaps(losses: Mapping[str, float], moes: set[str]) -> dict[str, dict[str, float]]:
    """By how many nats each MoE's loss is above that of each dense model."""
    return {
        moe: {other: losses[moe] - losses[other] for other in losses if other not in moes}
        for moe in sorted(moes & losses.keys())
    }


def can_say(study: Record, counted: Record, panels: Sequence[Record]) -> list[str]:
    """What the numbers of this run support, of a study as `compared` has it."""
    found = ["How much of each model's variance on text that was not fitted a dictionary explains."]
    rates = {row["control"] for row in counted["error_rates"]}
    if controls.OTHER_SEED in rates:
        found.append(
            "Which share of features the rule of classes calls exclusive where nothing differs."
        )
    if panels:
        found.append(
            "Whether features of one kind of model alone carry more than under any other labels of the "
            "same models."
        )
    if study["pair"]:
        found.append(
            "Which features differ most between the two models that are drawn, with examples."
        )
    return found


def cannot_say(
    study: Record,
    counted: Record,
    panels: Sequence[Record],
    losses: Mapping[str, float],
    moes: set[str],
    external: Sequence[str],
    withheld: Sequence[str],
) -> list[str]:
    """What they do not support, and why."""
    found = []
    if withheld:
        found.append(f"No claim has a verdict: {'; '.join(withheld)}.")
    rates = {row["control"] for row in counted["error_rates"]}
    missing = [name for name in controls.CONTROLS if name not in rates]
    if study["pair"]:
        found.append(
            "Counts of features by class depend on the number of features, on k and on noise, and two "
            "models that share every concept also show exclusive features."
        )
    if study["pair"] and missing:
        found.append(
            f"The error rate of these classes is not known in full: controls that were not run: "
            f"{', '.join(missing)}."
        )
    if panels:
        found.append(
            "A panel that finds nothing has not shown that there is no difference: its rule sees only "
            "features that one kind uses several times as much as every model of the other."
        )
    found += [
        f"{moe} models text better than {other}, by {-gap:.3f} nats a token: models may be matched in "
        "active size, not in loss."
        for moe, gaps in _gaps(losses, moes).items()
        for other, gap in gaps.items()
        if gap < -WORSE
    ]
    if external:
        found.append(
            f"The rows of {', '.join(external)} were written by other code. Sources of one dictionary "
            "were checked to be the same tokens in the same places; what computed those rows was not."
        )
    if any(about["tokenizer"] == "own" for about in study["models"].values()):
        found.append(
            "Nats a token of models that read text by different tokenizers cannot be compared."
        )
    if study["left_out"]:
        found.append(
            f"{len(study['left_out'])} dictionaries are in the tables only; their features and figures "
            "are not on this page (a list stands above the feature browser)."
        )
    return found
