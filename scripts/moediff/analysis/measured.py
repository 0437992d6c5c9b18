"""What is measured of a dictionary, and its rows in fve.json. Needs no torch: verdicts read them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

DEFINITION = (
    "1 - SSE/SST over all validation rows; SST about the validation mean; sums in float64; "
    "pooled is the plain mean over sources"
)
THRESHOLD = "threshold"  # the mode of inference; others bear the name of a rule of selection
POOLED = "pooled"  # all sources together
LEAST_FIRINGS = 100  # rows on which a feature must fire to have a nu (latent_scaling)


@dataclass
class Measured:
    """What one pass over the validation rows finds; arrays are [feature] unless they say otherwise."""

    fve: dict[tuple[str, str], float]  # (mode or baseline, source or pooled) -> FVE
    l0: dict[str, float]  # mode -> mean features a row
    fired: np.ndarray  # rows on which a feature fires, threshold mode
    activation: np.ndarray  # summed value where it fires
    fired_in: np.ndarray  # the same by half of the text, [half, feature, domain]
    domain_rows: np.ndarray  # [half, domain]
    rows: int
    massive_rows: int = 0  # of massive norm in some source, left in
    # Without those, as `fve`; empty where there are none, None where nothing else varies.
    fve_without: dict[tuple[str, str], float | None] = field(default_factory=dict)


def at_inference(record: Mapping[str, Any]) -> dict[str, Any]:
    """Of the FVE rows of a metrics.json that of all sources, as the dictionary fires at inference."""
    (row,) = (r for r in record["fve"] if (r["source"], r["mode"]) == (POOLED, THRESHOLD))
    return row


def fve_rows(
    measured: Measured, names: Sequence[str], dead: int, about: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Flat rows for fve.json: one for each mode and source, and one pooled.

    `dead` counts dead features; `about` holds comparison, member, recipe, seed, k and features.
    An SAE's pooled value is that of its one source. Where rows of massive norm were left in, it stands
    beside FVE what it is without them, of the dictionary and of the principal components.
    """
    apart = measured.fve_without

    def without_massive(mode: str, name: str) -> dict[str, Any]:
        return {
            "massive_rows": measured.massive_rows,
            "fve_without_massive": apart[mode, name],
            "baseline_pca_without_massive": apart["pca", name],
        }

    return [
        {
            **about,
            "source": name,
            "mode": mode,
            "fve": measured.fve[mode, name],
            "baseline_mean": measured.fve["mean", name],
            "baseline_pca": measured.fve["pca", name],
            "l0": measured.l0[mode],
            "dead_share": dead / about["features"],
            "firings_per_feature": float(measured.fired.mean()),
            "rows": measured.rows,
            "definition": DEFINITION,
            **(without_massive(mode, name) if apart else {}),
        }
        for mode in measured.l0
        for name in (POOLED, *names)
    ]
