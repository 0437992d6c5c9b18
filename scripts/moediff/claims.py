"""Claims fixed before a study runs, and what it found of each: claims.yaml in, claims.json out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from moediff import statistics
from moediff.errors import ConfigError, UserError, first_line
from moediff.schema import fill
from moediff.statistics import (
    ABOVE,
    ABSENT,
    BELOW,
    DIRECTIONS,
    KNOWN,
    LABELLINGS,
    NEAR,
    NO_VERDICT,
    NOT_MEASURED,
    NULLS,
)

# Of lambda_s to lambda_f: the paper's, and one of those that did not work.
STRONG_RATIO, WEAK_RATIO = 0.7, 0.15
FIDELITY = ("faithful", "adapted")
# What a claim can be about. A is the MoE, B the dense model; pairs are averaged over dictionary seeds.
METRICS = {
    # levels, a mean over pairs
    "fve_pooled": "FVE of the crosscoder, threshold mode, pooled over its sources",
    "fve_gain_last_quarter": "FVE at the end of fitting less that after 75 % of it",
    "fve_gain_shared_penalty": "FVE with lambda_s / lambda_f = 0.7 less that with 0.15",
    "moe_only_feature_share": "A-only features over A-only, common and B-only ones",
    "dense_only_feature_share": "B-only features over A-only, common and B-only ones",
    "common_feature_share": "common features over A-only, common and B-only ones",
    "relative_norm_side_modes": "height of the lowest of three modes over the highest bin of all; 20 bins: "
    "two outer ones (highest bin of relative norm in [0, 0.1) and (0.9, 1]) above the lowest bin between "
    "it and 0.5, and the highest bin between these lowest ones above the higher of them",
    "common_cosine_median": "median decoder cosine of common features",
    "common_cosine_negative_share": "share of common features whose decoder cosine is below -0.9",
    "tied_cosine_lowest": "lowest decoder cosine of a dictionary's features tied by direction",
    # contrasts of kinds, of every ordered pair of models
    "log2_moe_only_over_dense_only": "log2 of A-only over B-only features, each count plus one half",
    "density_order_margin": "the smaller of the two steps below where both go one way, else 0",
    "density_moe_only_over_common": "log10 median density of A-only features less that of common ones",
    "density_common_over_dense_only": "log10 median density of common features less that of B-only ones",
    "domain_share_moe_only_less_dense_only": "mean top-domain share of A-only less B-only features",
    # excess of pairs of two kinds over pairs of one
    "exclusive_variance_excess": "share of variance that goes with A-only and B-only features, in pairs of "
    "two kinds less in pairs of one kind",
    # the panel
    "panel_moe_only_variance": "mean share of the MoEs' variance that goes with features used by every MoE "
    "and no dense model",
    "panel_dense_only_variance": "mean share of the dense models' variance that goes with features used by "
    "every dense model and no MoE",
    "panel_either_variance": "mean of the two shares",
    "panel_moe_only_loss": "mean share of the MoEs' recovered loss that goes with features used by every "
    "MoE and no dense model",
}  # fmt: skip

# Keys of a finding that are judged.
_FINDING = ("estimate", "interval", "p", "null", "withheld", "blind")
_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 1}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_ROW = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        "paper", "statement", "metric", "contrast", "null", "direction", "minimum_effect", "fidelity",
    ],
    "properties": {
        "paper": _TEXT,
        "statement": _TEXT,
        "metric": {"enum": list(METRICS)},
        "contrast": _TEXT,
        "null": {"enum": list(NULLS)},
        "reference": {"type": ["number", "null"], "default": None},
        "direction": {"enum": list(DIRECTIONS)},
        "minimum_effect": _POSITIVE,
        "fidelity": {"enum": list(FIDELITY)},
        "primary": {"type": "boolean", "default": False},
    },
}  # fmt: skip
_ANALYSIS = {
    "moe": _TEXT,
    "dense": _TEXT,
    "hook": _TEXT,
    "layer": {"type": "number", "minimum": 0},
    "recipe": _TEXT,
    "features": _COUNT,
    "k": _COUNT,
    "bounds": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    "user_floor": _POSITIVE,
}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_LIMITS = {
    "nats_over_trigram": _POSITIVE,
    "firings_per_feature": _POSITIVE,
    "moved": _POSITIVE,
    "rotated": _SHARE,
    "permuted": _SHARE,
}
_PENALTIES = {"strong": _TEXT, "weak": _TEXT}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["alpha", "primary", "penalties", "limits", "claims"],
    "properties": {
        "alpha": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
        **{
            name: {
                "type": "object",
                "additionalProperties": False,
                "required": list(keys),
                "properties": keys,
            }
            for name, keys in (
                ("primary", _ANALYSIS),
                ("penalties", _PENALTIES),
                ("limits", _LIMITS),
            )
        },
        "claims": {"type": "object", "minProperties": 1, "additionalProperties": _ROW},
    },
    "$defs": {},
}


# --- reading ---------------------------------------------------------------------------------


def read_claims(path: Path | str) -> dict[str, Any]:
    """The claims of a YAML file, checked: alpha, primary analysis, limits, and claims by id.

    Raises ConfigError with one line that names the file, the claim and the key.
    """
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return checked(found)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({first_line(error)})") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def checked(found: Any) -> dict[str, Any]:
    """The claims of a parsed YAML file. Raises ConfigError with one line that names claim and key."""
    if not isinstance(found, dict) or not isinstance(found.get("claims"), list):
        raise ConfigError("claims: must be a list of rows")
    rows: dict[str, Any] = {}
    for number, row in enumerate(found["claims"], start=1):
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise ConfigError(f"claims: row {number} has no id")
        if row["id"] in rows:
            raise ConfigError(f"claims: the id '{row['id']}' stands twice")
        rows[row["id"]] = {key: value for key, value in row.items() if key != "id"}
    # `fill` takes its config through JSON, where the key that YAML reads as null is "null" again.
    claims = fill(found | {"claims": rows}, _SCHEMA, {})
    for name, row in claims["claims"].items():
        where = f"claims.{name}"
        if row["direction"] == NEAR and row["null"] != KNOWN:
            raise ConfigError(
                f"{where}.null: a claim that is near a value is judged by its interval; write {KNOWN}"
            )
        if row["null"] == KNOWN and row["reference"] is None:
            raise ConfigError(f"{where}.reference: the key is missing; null '{KNOWN}' needs it")
        if row["null"] == KNOWN and row["primary"]:
            raise ConfigError(f"{where}.primary: null '{KNOWN}' gives no p for Holm")
        of_panel = row["metric"].startswith("panel_")
        if row["null"] != KNOWN and (row["null"] == LABELLINGS) != of_panel:
            raise ConfigError(
                f"{where}.null: '{row['null']}' does not go with {row['metric']}; labellings are of panels"
            )
    low, high = claims["primary"]["bounds"]
    if not low <= high:
        raise ConfigError(f"primary.bounds: [{low:g}, {high:g}] do not rise")
    if claims["primary"]["moe"] == claims["primary"]["dense"]:
        raise ConfigError("primary.dense: the same model as primary.moe")
    return claims


# --- judging ---------------------------------------------------------------------------------


def reasons_to_withhold(
    limits: Mapping[str, float],
    losses: Mapping[str, float],
    trigram: float | None,
    firings: Mapping[str, float],
    counts: Mapping[str, tuple[Mapping[str, int], Mapping[str, int]]],
    controls: Mapping[str, float],
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


def penalties_fault(strong: Mapping[str, Any] | None, weak: Mapping[str, Any] | None) -> str:
    """Why two recipes do not tell what the ratio of penalties does, as one sentence; empty where they do.

    They must differ in that ratio alone, 0.7 and 0.15 of the L1 penalty on features that are not tied.
    A recipe that is missing has no fault: nothing is then measured of it.
    """
    if strong is None or weak is None:
        return ""
    ratios = [recipe["penalties"].get("l1", {}).get("tied") for recipe in (strong, weak)]
    same = [
        {key: value for key, value in recipe.items() if key != "preset"}
        | {
            "penalties": recipe["penalties"]
            | {"l1": {**recipe["penalties"].get("l1", {}), "tied": 0}}
        }
        for recipe in (strong, weak)
    ]
    if ratios == [STRONG_RATIO, WEAK_RATIO] and same[0] == same[1]:
        return ""
    wanted = f"{STRONG_RATIO:g} and {WEAK_RATIO:g}"
    return f"its two recipes do not differ in the ratio of penalties alone, {wanted}"


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
        adjusted = statistics.holm([1.0 if row[tail] is None else row[tail] for row in primary])
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
    found = statistics.verdict(
        row["estimate"], row["interval"], row["reference"] or 0.0, row["minimum_effect"],
        row["direction"], row["p_holm"], row["p_against_holm"], reasons, alpha, known,
    )  # fmt: skip
    row["verdict"], row["reason"] = found
    if found.verdict == ABSENT and finding.get("blind"):
        row["verdict"], row["reason"] = NO_VERDICT, f"{found.reason}, but {finding['blind']}"
    if found.verdict == statistics.UNDECIDED and directed and not (row["primary"] or known):
        own = "" if row["p"] is None else f" {row['p']:.4g}"
        row["reason"] = row["reason"].replace(
            ", no p", f", p{own} outside Holm: not a primary claim"
        )
    elif found.verdict == statistics.UNDECIDED and row["primary"]:
        for tail in ("p", "p_against"):
            if row[tail] == row["p_smallest"] and row[f"{tail}_holm"] > alpha:
                row["reason"] += "; p is the smallest that so few models allow"
