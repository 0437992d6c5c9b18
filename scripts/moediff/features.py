"""One row a feature: its block, its class, its norms and where it fires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch

from moediff.dictionary import TIED, Dictionary
from moediff.evaluation import Measured

CLASSES = ("tied", "dead", "A-only", "common", "B-only")
LIVE = "live"  # the class of what fires in a dictionary that does not have two sources


def relative_norm(norms: np.ndarray) -> np.ndarray:
    """Delta [F] of decoder norms [F, 2] of A and B: ((B - A) / max(A, B) + 1) / 2.

    0 is A alone, 1 is B alone, 0.5 is equal (2504.02922; papers print several other forms). NaN
    where both norms are 0.
    """
    a, b = norms[:, 0], norms[:, 1]
    largest = np.maximum(a, b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((b - a) / largest + 1) / 2


def classify(
    blocks: Sequence[str],
    fired: np.ndarray,
    relative: np.ndarray | None,
    dead_below: int,
    bounds: tuple[float, float],
) -> list[str]:
    """Class of every feature: dead if it fired on fewer than `dead_below` rows, else by block and norm.

    With two sources: tied features are tied; the others A-only below `bounds`, B-only above, else
    common. Otherwise what is alive is tied or live.
    """
    names = []
    for index, block in enumerate(blocks):
        if fired[index] < dead_below:
            names.append("dead")
        elif block == TIED:
            names.append("tied")
        elif relative is None:
            names.append(LIVE)
        elif relative[index] < bounds[0]:
            names.append("A-only")
        elif relative[index] > bounds[1]:
            names.append("B-only")
        else:
            names.append("common")
    return names


def feature_table(
    dictionary: Dictionary,
    measured: Measured,
    sources: Sequence[str],
    domains: Sequence[str],
    dead_below: int,
    bounds: tuple[float, float],
) -> pl.DataFrame:
    """One row a feature, of one dictionary over validation rows.

    Norms are in standardised units. `density` is the share of rows on which it fires,
    `mean_activation` its value where it does, `top_domain` the one in which it is densest and
    `top_domain_share` that density over the sum of its densities. The decoder cosine needs two
    sources of equal width and speaks of alignment only where they share a basis.
    """
    shape = dictionary.shape
    norms = dictionary.norms().double().cpu().numpy()  # [F, S]
    paired = len(sources) == 2
    relative = relative_norm(norms) if paired else None
    blocks = shape.blocks()
    densities = measured.fired_in / np.maximum(measured.domain_rows, 1)  # [F, domain]
    alive = measured.fired > 0
    top = densities.argmax(1)
    nothing = np.full(shape.features, np.nan)
    spread = np.where(alive, densities.sum(1), 1)
    columns = {
        "feature": np.arange(shape.features),
        "block": [_block_label(block, sources) for block in blocks],
        "class": classify(blocks, measured.fired, relative, dead_below, bounds),
        **{f"decoder_norm_{name}": norms[:, s] for s, name in enumerate(sources)},
        "relative_norm": nothing if relative is None else relative,
        "decoder_cosine": _decoder_cosine(dictionary) if paired else nothing,
        "fired": measured.fired,
        "density": measured.fired / measured.rows,
        "mean_activation": np.where(
            alive, measured.activation / np.maximum(measured.fired, 1), np.nan
        ),
        "top_domain": [domains[i] if a else None for i, a in zip(top, alive, strict=True)],
        "top_domain_share": np.where(alive, densities.max(1) / spread, np.nan),
    }
    return pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))


def with_scaling(table: pl.DataFrame, nu: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """The table of a two-source dictionary with latent scaling beside it, as `scaling` gives it."""
    named = {name: values for name, values in nu.items() if name != "fired"}
    return table.with_columns(pl.DataFrame(named)).with_columns(pl.col(list(named)).fill_nan(None))


def _block_label(block: str, sources: Sequence[str]) -> str:
    name, _, source = block.partition("-")
    return f"{name}-{sources[int(source)]}" if source else name


def _decoder_cosine(dictionary: Dictionary) -> np.ndarray:
    first, second = dictionary.decoders()
    if first.shape != second.shape:
        return np.full(dictionary.shape.features, np.nan)
    norms = first.norm(dim=1) * second.norm(dim=1)
    cosine = (first * second).sum(1) / norms
    return torch.where(norms > 0, cosine, torch.nan).double().cpu().numpy()


def class_numbers(names: Sequence[str]) -> np.ndarray:
    """Place in CLASSES of every feature's class [F]."""
    return np.array([CLASSES.index(name) for name in names])


def class_counts(table: pl.DataFrame) -> dict[str, int]:
    """Features of each class; the counts sum to the number of features."""
    found = dict(table.group_by("class", maintain_order=True).len().iter_rows())
    paired = table["relative_norm"].null_count() < len(table)
    return {name: found.get(name, 0) for name in (CLASSES if paired else ("tied", "dead", LIVE))}
