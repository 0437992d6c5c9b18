"""Ways to find what models of one kind have and models of another lack, scored where the truth is known.

A method fits dictionaries on planted rows and says of every live feature whether it is the first kind's
alone, the second kind's alone, or neither. Two kinds are the two halves of a world's sources. Every method
is given all of them: one dictionary over all, or one over every two (every one), whose verdicts are
combined by one rule (`votes`), so that none wins by seeing more. What is scored is the attribution (our
definitions):

    right      a feature attributed to one kind alone whose nearest planted feature, there, is one that
               is this kind's own
    recovered  a planted feature of one kind's own that some feature attributed to that kind alone comes
               as near as NEAR
    precision = right / attributed        recall = recovered / planted        F1 their harmonic mean

Nearness is the absolute cosine of decoder and planted direction, a mean over the sources of the kind that
have the planted feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moediff.analysis.differential import Q
from moediff.analysis.matching import MATCH
from moediff.synthetic.rules import (
    Judged,
    Verdict,
    by_block,
    by_match,
    by_norm,
    by_t,
    by_users,
    by_vote,
    over_all,
)
from moediff.synthetic.world import World

# A dictionary has this many features for each planted one: room for some that stay dead or split.
FEATURES_PER_PLANTED = 1.5
EXCLUSIVE_SHARE = 0.1  # of a dictionary's features, for each source: what the base world has
L1_WEIGHT = 0.1  # brings the base world's L0 near the number of active features


def recipes(
    ours: Mapping[str, Any], paper: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The full recipe of every dictionary that METHODS need.

    `ours` is our default recipe and `paper` the preset of 2603.05805, both with every key. k, features,
    rows, batch and learning rate are equal for all, since published rates are for runs of hundreds of times
    the steps: `settings` has `active`, `features`, `steps`, `batch` and `lr`.
    """
    equal = {
        "k": settings["active"],
        "features": round(FEATURES_PER_PLANTED * settings["features"]),
        "rows": settings["steps"] * settings["batch"],
        "batch": settings["batch"],
        "lr": settings["lr"],
        "screen": False,  # worlds are too small for it
    }
    ours = {**ours, **equal}
    l1 = {"l1": {"weight": L1_WEIGHT, "tied": 1.0, "ramp": 0.05}}
    return {
        "default": ours,
        # Half of one model's width, as published.
        "paper": {**paper, **equal, "aux_k": max(1, settings["width"] // 2)},
        # Dedicated features (2602.11729): what both sources have is free.
        "dfc": ours | {"tied": 0.0, "exclusive": EXCLUSIVE_SHARE},
        "l1": ours | {"tied": 0.0, "select": "relu", "penalties": l1, "aux_weight": 0.0},
    }


@dataclass(frozen=True)
class Method:
    """A recipe, what its dictionaries say of a world, and thresholds, the one in use first."""

    recipe: str
    verdict: Verdict
    thresholds: tuple[float, ...]

    def judged(self, world: World) -> Judged:
        """What the method says in a world, over all its sources."""
        return self.verdict(world, self.recipe)


BOUNDS, USED, MATCHED = (0.3, 0.2, 0.1, 0.05), (0.2, 0.1, 0.3), (MATCH, 0.5, 0.3, 0.2)
METHODS = {
    "paper": Method("paper", by_vote(by_norm), BOUNDS),
    "default": Method("default", by_vote(by_norm), BOUNDS),
    "dfc": Method("dfc", by_vote(by_block), (0.0,)),
    "l1": Method("l1", by_vote(by_norm), BOUNDS),
    "matched-saes": Method("default", by_match, MATCHED),
    "default/users": Method("default", by_vote(by_users), USED),
    "panel": Method("default", over_all(by_users), USED),
    "graded": Method("default", over_all(by_t), (Q, 0.2, 0.05, 0.02)),
}
