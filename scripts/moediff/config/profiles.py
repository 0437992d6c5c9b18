"""How many jobs each profile runs at once, as its file says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

TOGETHER = 2  # heavy jobs of a machine: they share its cores


def places(folder: Path) -> dict[str, dict[str, Any]]:
    """Of each profile in a folder: `jobs` at once, and `gpu`, those among them that may have one (null: any).

    A profile of one machine names cores and no jobs: TOGETHER.
    """
    found = {}
    for path in sorted(folder.glob("*/config.yaml")):
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
        gpus = facts.get("resources", {}).get("gpu")
        found[path.parent.name] = {"jobs": facts.get("jobs", TOGETHER), "gpu": gpus}
    return found
