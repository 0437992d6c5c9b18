"""claims.yaml read and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from moediff.claims.metrics import (
    FIDELITY,
    METRICS,
    OF_EXPERTS,
    ORDERS,
    STRONG_RATIO,
    WEAK_RATIO,
)
from moediff.config.schema import fill
from moediff.core import artifact
from moediff.core.errors import ConfigError, first_line
from moediff.core.terms import ABOVE, BELOW, DIRECTIONS, KNOWN, LABELLINGS, NEAR, NULLS

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
        "opposite": {"type": "boolean", "default": False},  # may be claimed too; alpha is then shared
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


DICTIONARIES, EXPERTS = GROUPS = ("dictionaries", "experts")  # that claims are about


def read_claims(path: Path | str, group: str = DICTIONARIES) -> dict[str, Any]:
    """The claims of a YAML file about one of GROUPS, checked: alpha, primary analysis, limits, claims by id,
    and their digest.

    The digest is of what stands in the file of that group, without comments, order of keys and defaults: a
    key that the schema gains, or a claim of the other group, leaves it as it was.

    Raises ConfigError with one line that names the file, the claim and the key.
    """
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return checked(found, group)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({first_line(error)})") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def checked(found: Any, group: str = DICTIONARIES) -> dict[str, Any]:
    """The claims of a parsed YAML file. Raises ConfigError with one line that names claim and key."""
    if not isinstance(found, dict) or not isinstance(found.get("claims"), list):
        raise ConfigError("claims: must be a list of rows")
    rows: dict[str, Any] = {}
    for number, row in enumerate(found["claims"], start=1):
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise ConfigError(f"claims: row {number} has no id")
        if row["id"] in rows:
            raise ConfigError(f"claims: the id '{row['id']}' stands twice")
        # YAML reads the key `null`, which a claim has, as nothing.
        named = {"null" if key is None else key: value for key, value in row.items()}
        rows[row["id"]] = {key: value for key, value in named.items() if key != "id"}
    claims = fill(found | {"claims": rows}, _SCHEMA, {})
    for name, row in claims["claims"].items():
        _check(f"claims.{name}", row)
    low, high = claims["primary"]["bounds"]
    if not low <= high:
        raise ConfigError(f"primary.bounds: [{low:g}, {high:g}] do not rise")
    if claims["primary"]["moe"] == claims["primary"]["dense"]:
        raise ConfigError("primary.dense: the same model as primary.moe")

    def own(every: Mapping[str, Any]) -> dict[str, Any]:
        of_experts = group == EXPERTS
        return {
            name: row for name, row in every.items() if (row["metric"] in OF_EXPERTS) == of_experts
        }

    # Not artifact.digest: the Snakefile reads this each time that it is parsed, and needs no NumPy for it.
    written = artifact.canonical(found | {"claims": own(rows)})
    digest = hashlib.sha256(written.encode()).hexdigest()[:32]
    return claims | {"claims": own(claims["claims"]), "digest": digest}


def _check(where: str, row: Mapping[str, Any]) -> None:
    """Raise ConfigError for a claim whose keys do not go together."""
    known, directed = row["null"] == KNOWN, row["direction"] in (ABOVE, BELOW)
    if row["direction"] == NEAR and not known:
        raise ConfigError(
            f"{where}.null: a claim that is near a value is judged by its interval; write {KNOWN}"
        )
    if known and row["primary"]:
        raise ConfigError(f"{where}.primary: null '{KNOWN}' gives no p for Holm")
    if known and row["reference"] is None:
        raise ConfigError(f"{where}.reference: the key is missing; null '{KNOWN}' needs it")
    if not known and row["reference"] is not None:
        raise ConfigError(
            f"{where}.reference: that of null '{row['null']}' is its median; leave the key out"
        )
    if row["metric"] in OF_EXPERTS and not known:
        raise ConfigError(
            f"{where}.null: {row['metric']} is of one model, without labels to exchange; write {KNOWN}"
        )
    of_panel = row["metric"].startswith("panel_")
    if not known and (row["null"] == LABELLINGS) != of_panel:
        raise ConfigError(
            f"{where}.null: '{row['null']}' does not go with {row['metric']}; labellings are of panels"
        )
    if row["metric"] in ORDERS and not directed:
        raise ConfigError(
            f"{where}.direction: {row['metric']} is an order; write {ABOVE} or {BELOW}"
        )
    if row["opposite"] and (known or not directed):
        raise ConfigError(
            f"{where}.opposite: of {ABOVE} or {BELOW} against other labellings alone; all other claims "
            "cover both directions as they are"
        )


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
