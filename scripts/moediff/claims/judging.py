"""Claims fixed before a study runs, and what it found of each: claims.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from moediff.claims import verdicts
from moediff.claims.metrics import METRICS, ORDERS
from moediff.claims.verdicts import (
    ABSENT,
    NO_VERDICT,
    NOT_MEASURED,
    SMALLEST,
    PValue,
    Step,
    Verdict,
)
from moediff.core.errors import UserError
from moediff.core.terms import ABOVE, BELOW, KNOWN

# Keys of a finding that are judged.
_FINDING = ("estimate", "interval", "p", "null", "withheld", "blind", "would_see")


def reasons_to_withhold(
    limits: Mapping[str, float],
    losses: Mapping[str, float],
    trigram: float | None,
    firings: Mapping[str, Mapping[str, float]],
    counts: Mapping[str, tuple[Mapping[str, int], Mapping[str, int]]],
    controls: Mapping[str, float | None],
) -> list[str]:
    """Why no verdict may be given, one sentence each (our definition).

    `losses` is each model's validation cross-entropy and `trigram` that of the n-gram, in nats a
    token; `firings` how many validation rows the median feature of each class fires on, by dictionary: the
    mean over all is fixed by k, rows and features, whatever they are; `counts` its features of the
    classes that claims count, after 75 % of fitting and at the end. A class still moves when it
    changed by more than `moved` of its size and by more than twice the root of it, which small classes
    do by chance. `controls` is the share of live free features that a control of known answer calls
    exclusive: of a rotated copy `rotated` at most, of permuted rows `permuted` at least. What is not
    known does not count as passed.
    """
    reasons = weak_models(limits, losses, trigram)
    few = [
        f"{name} ({kind} {median:g})"
        for name, medians in firings.items()
        for kind, median in medians.items()
        if median < limits["firings_per_feature"]
    ]
    if few or not firings:
        reasons.append(
            f"fewer than {limits['firings_per_feature']:g} firings of the median feature of a class: {few[0]}"
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


def weak_models(
    limits: Mapping[str, float], losses: Mapping[str, float], trigram: float | None
) -> list[str]:
    """Why models are too weak for any verdict, as one sentence; none where they are not."""
    if not losses or trigram is None:
        return ["it is not known whether the models beat n-grams"]
    weak = [name for name, loss in losses.items() if trigram - loss <= limits["nats_over_trigram"]]
    if not weak:
        return []
    return [
        f"models do not beat the trigram by more than {limits['nats_over_trigram']:g} nats a token "
        f"({', '.join(weak)})"
    ]


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
    such, `interval` [low, high], `p` and `null` (as `resampling.relabelled` gives them), `withheld`
    (sentences), `blind` (why absence cannot be told), `would_see` (as `verdicts.absence` takes it), and
    whatever else is to stand `beside` them. That of
    an order has only `steps`, by metric: the row shows the one that goes least in the claimed direction.
    `analysis` says how they were measured, by the keys of the primary analysis: any other analysis is
    a row of the sensitivity table, without verdicts. `withheld` are sentences that hold for all
    (`reasons_to_withhold`).

    `effect` is the estimate less `reference`: the median of the null, or the known value. Holm counts every
    primary claim, measured or not, so that none is made easier by leaving another out; a claim that may be
    made in both directions has one p for them. Claims against a known value are judged by their interval.
    Others that are not primary have no p after Holm: absent by their interval, or undecided.
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
        name: _Row(name, claim, findings.get(claim["metric"]))
        for name, claim in claims["claims"].items()
    }
    primary = [row for row in rows.values() if row.claim["primary"]]
    adjusted = verdicts.after_holm([row.test for row in primary])
    for row, test in zip(primary, adjusted, strict=True):
        row.test = test
    return {
        "alpha": claims["alpha"],
        "primary": claims["primary"],
        "analysis": dict(analysis),
        "withheld": withheld,
        "claims": [row.judged(withheld, claims["alpha"]) for row in rows.values()],
    }


def _check_finding(metric: str, finding: Mapping[str, Any]) -> None:
    if metric not in METRICS:
        raise UserError(f"finding '{metric}' is not a metric; metrics: {', '.join(METRICS)}")
    if metric in ORDERS:
        if tuple(finding.get("steps") or ()) != ORDERS[metric]:
            raise UserError(
                f"finding '{metric}': an order has the steps {', '.join(ORDERS[metric])}"
            )
        for step, found in finding["steps"].items():
            _check_finding(step, found)
        return
    numbers = [finding.get("estimate"), *(finding.get("interval") or ())]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise UserError(f"finding '{metric}': estimate and interval must be finite numbers")
    if finding.get("interval") and not finding["interval"][0] <= finding["interval"][1]:
        raise UserError(f"finding '{metric}': its interval {finding['interval']} does not rise")
    if finding.get("null") and not {ABOVE, BELOW, SMALLEST} <= set(finding.get("p") or ()):
        raise UserError(f"finding '{metric}': with a null goes p, above, below and the smallest")


class _Row:
    """A claim with what was found of it, before anything is said about it.

    `steps` are its numbers against their references: one, or those of an order; none where it was not
    measured, or not against the claim's own null. `weakest` is the one that the row shows.
    """

    def __init__(
        self, name: str, claim: Mapping[str, Any], finding: Mapping[str, Any] | None
    ) -> None:
        self.name, self.claim, self.finding = name, claim, finding or {}
        parts = self.finding.get("steps") or ({"": finding} if finding else {})
        self.steps = [self._step(*part) for part in parts.items() if self._as_claimed(part[1])]
        if len(self.steps) < len(parts):
            self.steps = []
        self.weakest: Step | None = None
        self.test: PValue | None = None
        if self.steps:
            self.weakest = verdicts.weakest(self.steps, claim["direction"])
            self.test = verdicts.p_value(self.steps, claim["direction"], claim["opposite"])
        self.shown = parts[self.weakest.name] if self.weakest else self.finding

    def _as_claimed(self, part: Mapping[str, Any]) -> bool:
        null = self.claim["null"]
        return null == KNOWN or (part.get("null") or {}).get("kind") == null

    def _step(self, name: str, part: Mapping[str, Any]) -> Step:
        estimate, interval = part["estimate"], part.get("interval")
        if self.claim["null"] == KNOWN:
            return Step(estimate, interval, self.claim["reference"], None, name)
        return Step(estimate, interval, part["null"]["q50"], part["p"], name)

    def judged(self, withheld: Sequence[str], alpha: float) -> dict[str, Any]:
        """The row of claims.json."""
        claim, test, step = self.claim, self.test, self.weakest
        verdict, reason = self._decided(withheld, alpha)
        return {
            "id": self.name,
            **claim,
            "null": dict(self.shown["null"]) if test else {"kind": claim["null"]},
            "reference": step.reference if step else claim["reference"],
            **{key: self.shown.get(key) for key in ("estimate", "interval")},
            "effect": step.effect if step else None,
            "beside": {key: value for key, value in self.finding.items() if key not in _FINDING},
            "tails": dict(step.tails) if step and step.tails else None,
            "p": test.p if test else None,
            "p_smallest": test.smallest if test else None,
            "p_holm": test.holm if test else None,
            "verdict": verdict,
            "reason": reason,
        }

    def _decided(self, withheld: Sequence[str], alpha: float) -> Verdict:
        claim = self.claim
        if not self.finding:
            return Verdict(NOT_MEASURED, f"nothing measured {claim['metric']}")
        reasons = [*withheld, *self.finding.get("withheld", ())]
        if not self.steps:
            reasons.append(f"it was not measured against {claim['null']}")
        found = verdicts.verdict(
            self.steps, claim["minimum_effect"], claim["direction"], self.test, claim["opposite"],
            alpha, reasons,
        )  # fmt: skip
        if found.verdict == ABSENT and self.finding.get("blind"):
            return Verdict(NO_VERDICT, f"{found.reason}, but {self.finding['blind']}")
        if would := self.finding.get("would_see"):
            return verdicts.absence(
                found, claim["minimum_effect"], would["least"], would["unknown"]
            )
        return found
