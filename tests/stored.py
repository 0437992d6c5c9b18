"""Results kept under docs/reference, and their claims as today's judge has them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from moediff.claims.judging import judge
from moediff.claims.metrics import ORDERS, SHARES
from moediff.claims.reading import read_claims
from moediff.core import artifact
from moediff.core.resampling import zero_bound
from moediff.core.terms import ABOVE
from workflow import ROOT

# The programs of docs/reference/README.md; GATHER reads results that are not in the repository.
REFERENCE = (ROOT / "docs/reference/README.md").read_text(encoding="utf-8")
SPLITS, PANEL, GATHER, OWN_SHARES, GRADED = re.findall(r"```python\n(.*?)```", REFERENCE, re.DOTALL)


def names_of(program: str) -> dict[str, Any]:
    """What a program of docs/reference/README.md has bound when it ends; it reads docs/ where it is run."""
    bound: dict[str, Any] = {}
    exec(compile(program, "docs/reference/README.md", "exec"), bound)
    return bound


def stored(study: Path, name: str) -> dict:
    path = study / f"{name}.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    artifact.check_format(path, found)
    return found


def as_findings(rows: dict[str, dict]) -> dict[str, dict]:
    """What a stored claims.json says was measured, by metric, as the judge takes it today.

    An order has its steps, which were claims by themselves. An interval of 0 to 0 is none: of so many models
    it has a bound, of documents, whose number was not stored, it has not.
    """
    found = {}
    for row in rows.values():
        if row["estimate"] is None or row["metric"] in ORDERS:
            continue
        interval = row["interval"]
        if row["metric"] in SHARES and interval == [0, 0]:
            interval = [0, zero_bound(4)]
        elif "features" in row["beside"] and interval == [0, 0]:
            interval = None
        finding = {"estimate": row["estimate"], "interval": interval} | row["beside"]
        if row["p"] is not None:
            finding["p"] = tails_of(row) | {"smallest": row["p_smallest"]}
            finding["null"] = row["null"]
        found[row["metric"]] = finding
    for metric, steps in ORDERS.items():
        if found.keys() >= set(steps):
            found[metric] = {"steps": {step: found[step] for step in steps}}
    return found


def tails_of(row: dict) -> dict[str, float]:
    """Both tails of a claim; version 3 had them by the claim's own direction."""
    if "tails" in row:
        return row["tails"]
    tails = (row["p"], row["p_against"])
    above, below = tails if row["direction"] == ABOVE else tails[::-1]
    return {"above": above, "below": below}


def judged_again(study: Path) -> dict[str, dict]:
    """The claims of a stored study as today's judge has them, what withheld verdicts taken as it was."""
    found = stored(study, "claims")
    wanted = read_claims(ROOT / "config/claims.yaml")
    rows = {row["id"]: row for row in found["claims"]}
    assert list(rows) == list(wanted["claims"])[: len(rows)]  # newer claims were not asked then
    again = judge(wanted, as_findings(rows), found["analysis"], found["withheld"])
    return {row["id"]: row for row in again["claims"] if row["id"] in rows}
