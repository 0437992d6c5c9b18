"""Claims fixed before a study runs, and what it found of each: claims.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from moediff.claims import verdicts
from moediff.claims.metrics import METRICS
from moediff.claims.verdicts import ABSENT, NO_VERDICT, NOT_MEASURED
from moediff.core.errors import UserError
from moediff.core.terms import ABOVE, BELOW, KNOWN, NEAR

# Keys of a finding that are judged.
_FINDING = ("estimate", "interval", "p", "null", "withheld", "blind")


def reasons_to_withhold(
    limits: Mapping[str, float],
    losses: Mapping[str, float],
    trigram: float | None,
    firings: Mapping[str, float],
    counts: Mapping[str, tuple[Mapping[str, int], Mapping[str, int]]],
    controls: Mapping[str, float | None],
) -> list[str]:
    """Why no verdict may be given, one sentence each (our definition).

    `losses` is each model's validation cross-entropy and `trigram` that of the n-gram, in nats a
    token; `firings` the mean validation firings a feature of each dictionary; `counts` its features of the
    classes that claims count, after 75 % of fitting and at the end. A class still moves when it
    changed by more than `moved` of its size and by more than twice the root of it, which small classes
    do by chance. `controls` is the share of live free features that a control of known answer calls
    exclusive: of a rotated copy `rotated` at most, of permuted rows `permuted` at least. What is not
    known does not count as passed.
    """
    reasons = []
    if not losses or trigram is None:
        reasons.append("it is not known whether the models beat n-grams")
    else:
        weak = [
            name for name, loss in losses.items() if trigram - loss <= limits["nats_over_trigram"]
        ]
        if weak:
            reasons.append(
                f"models do not beat the trigram by more than {limits['nats_over_trigram']:g} nats a token "
                f"({', '.join(weak)})"
            )
    few = [name for name, mean in firings.items() if mean < limits["firings_per_feature"]]
    if few or not firings:
        reasons.append(
            f"fewer than {limits['firings_per_feature']:g} firings a feature in {few[0]}"
            if few
            else "firings a feature are not known"
        )
    moving = [
        f"{name} ({kind} {before.get(kind, 0)} to {after.get(kind, 0)})"
        for name, (before, after) in counts.items()
        for kind in dict.fromkeys([*before, *after])
        if _moved(before.get(kind, 0), after.get(kind, 0), limits["moved"])
    ]
    if moving or not counts:
        reasons.append(
            f"class counts still move in the last quarter of fitting: {moving[0]}"
            if moving
            else "class counts after 75 % of fitting are not known"
        )
    for control, sign, least in (("rotated", 1, "at most"), ("permuted", -1, "at least")):
        limit, share = limits[control], controls.get(control)
        if share is None:
            reasons.append(f"the control '{control}' was not run")
        elif sign * share > sign * limit:
            reasons.append(
                f"of the control '{control}' {100 * share:.1f} % are exclusive, not {least} {100 * limit:g} %"
            )
    return reasons


def _moved(before: int, after: int, share: float) -> bool:
    larger = max(before, after)
    return abs(after - before) > max(share * larger, 2 * math.sqrt(larger))


def judge(
    claims: Mapping[str, Any],
    findings: Mapping[str, Mapping[str, Any]],
    analysis: Mapping[str, Any],
    withheld: Sequence[str] = (),
) -> dict[str, Any]:
    """Every claim with what was found and its verdict, for claims.json.

    `claims` as `read_claims` gives them. `findings` maps a metric to `estimate` and, where there are
    such, `interval` [low, high], `p` and `null` (as `statistics.relabelled` gives them), `withheld`
    (sentences), `blind` (why absence cannot be told), and whatever else is to stand `beside` them.
    `analysis` says how they were measured, by the keys of the primary analysis: any other analysis is
    a row of the sensitivity table, without verdicts. `withheld` are sentences that hold for all
    (`reasons_to_withhold`).

    Holm counts every primary claim, measured or not, so that none is made easier by leaving another
    out; p of the two tails are two families, each at alpha. Claims against a known value are judged by
    their interval. Others that are not primary have no p after Holm: absent by their interval, or undecided.
    Raises UserError for a finding that is none.
    """
    for metric, finding in findings.items():
        _check_finding(metric, finding)
    other = [
        f"{key} {analysis.get(key)}, not {value}"
        for key, value in claims["primary"].items()
        if analysis.get(key) != value
    ]
    withheld = [*withheld, *([f"not the primary analysis ({', '.join(other)})"] if other else [])]
    rows = {
        name: _row(name, row, findings.get(row["metric"])) for name, row in claims["claims"].items()
    }
    primary = [row for row in rows.values() if row["primary"]]
    for tail in ("p", "p_against"):
        # What was not measured has not been shown: p is 1.
        adjusted = verdicts.holm([1.0 if row[tail] is None else row[tail] for row in primary])
        for row, p in zip(primary, adjusted, strict=True):
            row[f"{tail}_holm"] = None if row[tail] is None else float(p)
    for row in rows.values():
        _decide(row, findings.get(row["metric"]), withheld, claims["alpha"])
    return {
        "alpha": claims["alpha"],
        "primary": claims["primary"],
        "analysis": dict(analysis),
        "withheld": withheld,
        "claims": list(rows.values()),
    }


def _check_finding(metric: str, finding: Mapping[str, Any]) -> None:
    if metric not in METRICS:
        raise UserError(f"finding '{metric}' is not a metric; metrics: {', '.join(METRICS)}")
    numbers = [finding.get("estimate"), *(finding.get("interval") or ())]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise UserError(f"finding '{metric}': estimate and interval must be finite numbers")
    if finding.get("interval") and not finding["interval"][0] <= finding["interval"][1]:
        raise UserError(f"finding '{metric}': its interval {finding['interval']} does not rise")
    if finding.get("null") and not {ABOVE, BELOW, "smallest"} <= set(finding.get("p") or ()):
        raise UserError(f"finding '{metric}': with a null goes p, above, below and the smallest")


def _row(name: str, claim: Mapping[str, Any], finding: Mapping[str, Any] | None) -> dict[str, Any]:
    """A claim with what was found of it, before anything is said about it."""
    found = finding or {}
    null = found.get("null")
    row = {"id": name, **claim, "null": {"kind": claim["null"]}}
    row |= {key: found.get(key) for key in ("estimate", "interval")}
    row["beside"] = {key: value for key, value in found.items() if key not in _FINDING}
    row |= {
        "p": None,
        "p_against": None,
        "p_smallest": None,
        "p_holm": None,
        "p_against_holm": None,
    }
    if null and null["kind"] == claim["null"]:
        against = BELOW if claim["direction"] == ABOVE else ABOVE
        row["null"] = dict(null)
        if row["reference"] is None:  # what is to be expected without an effect
            row["reference"] = null["q50"]
        row["p"], row["p_against"] = found["p"][claim["direction"]], found["p"][against]
        row["p_smallest"] = found["p"]["smallest"]
    return row


def _decide(
    row: dict[str, Any], finding: Mapping[str, Any] | None, withheld: Sequence[str], alpha: float
) -> None:
    """Put the verdict and its reason into a row."""
    if finding is None:
        row["verdict"], row["reason"] = NOT_MEASURED, f"nothing measured {row['metric']}"
        return
    reasons = [*withheld, *finding.get("withheld", ())]
    directed, known = row["direction"] != NEAR, row["null"]["kind"] == KNOWN
    if not known and "labellings" not in row["null"]:
        reasons.append(f"it was not measured against {row['null']['kind']}")
    found = verdicts.verdict(
        row["estimate"], row["interval"], row["reference"] or 0.0, row["minimum_effect"],
        row["direction"], row["p_holm"], row["p_against_holm"], reasons, alpha, known,
    )  # fmt: skip
    row["verdict"], row["reason"] = found
    if found.verdict == ABSENT and finding.get("blind"):
        row["verdict"], row["reason"] = NO_VERDICT, f"{found.reason}, but {finding['blind']}"
    if found.verdict == verdicts.UNDECIDED and directed and not (row["primary"] or known):
        own = "" if row["p"] is None else f" {row['p']:.4g}"
        row["reason"] = row["reason"].replace(
            ", no p", f", p{own} outside Holm: not a primary claim"
        )
    elif found.verdict == verdicts.UNDECIDED and row["primary"]:
        for tail in ("p", "p_against"):
            if row[tail] == row["p_smallest"] and row[f"{tail}_holm"] > alpha:
                row["reason"] += "; p is the smallest that so few models allow"
