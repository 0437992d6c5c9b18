"""The shipped configs, and one of two models with keys changed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import yaml

from conftest import PRESETS, SCHEMA
from moediff.config import complete
from moediff.core.errors import ConfigError
from workflow import ROOT

FOLDER = ROOT / "config"
SHIPPED = {
    name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for name in ("config", "local-text", "paper")
}
PAIR = yaml.safe_load((ROOT / "tests/pair.yaml").read_text(encoding="utf-8"))


def changed(change: dict | str, base: dict = PAIR) -> dict:
    """The config of two models with keys changed; a mapping is merged, a "!" key replaces."""

    def merge(into: dict, part: dict) -> None:
        for key, value in part.items():
            if key.endswith("!"):
                into[key[:-1]] = value
            elif isinstance(value, dict) and isinstance(into.get(key), dict):
                merge(into[key], value)
            else:
                into[key] = value

    whole = copy.deepcopy(base)
    merge(whole, yaml.safe_load(change) if isinstance(change, str) else change)
    return whole


def completed(change: dict | str = "{}") -> dict:
    return complete.complete(changed(change), SCHEMA, PRESETS)


def refused(change: dict | str, named: Sequence[str]) -> None:
    """Fail unless a changed config is refused in one line, in which each of `named` stands."""
    with pytest.raises(ConfigError) as caught:
        completed(change)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in named if part not in message] == [], message
