"""One row a feature: its block, its class, its norms and where it fires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from moediff.dictionary import TIED, Dictionary
from moediff.evaluation import Measured

CLASSES = ("tied", "dead", "A-only", "common", "B-only")
LIVE = "live"  # the class of what fires in a dictionary that does not have two sources
STRICT = (0.1, 0.9)  # relative norms (2504.02922, and the count in the code of 2603.05805)
RATIO = (0.3, 0.7)  # of `norm_ratio` (Kissane and others' replication of crosscoders)
# Name of a convention -> column of its classes. A ratio of 0.7 is a relative norm of 0.786.
CONVENTIONS = {"bounds": "class", "strict": "class_strict", "ratio": "class_ratio"}


def relative_norm(norms: np.ndarray) -> np.ndarray:
    """Delta [F] of decoder norms [F, 2] of A and B: ((B - A) / max(A, B) + 1) / 2.

    0 is A alone, 1 is B alone, 0.5 is equal (2504.02922; papers print several other forms). NaN
    where both norms are 0.
    """
    a, b = norms[:, 0], norms[:, 1]
    largest = np.maximum(a, b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((b - a) / largest + 1) / 2


def norm_ratio(norms: np.ndarray) -> np.ndarray:
    """B / (A + B) [F] of decoder norms [F, 2] of A and B (Anthropic 2024); NaN where both are 0."""
    with np.errstate(invalid="ignore"):
        return norms[:, 1] / norms.sum(1)


def classify(
    blocks: Sequence[str],
    fired: np.ndarray,
    relative: np.ndarray | None,
    dead_below: int,
    bounds: tuple[float, float],
) -> list[str]:
    """Class of every feature: dead if it fired on fewer than `dead_below` rows, else by block and norm.

    With two sources: tied features are tied; the others A-only where `relative` [F] is below
    `bounds`, B-only above, else common. Otherwise what is alive is tied or live.
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

    Norms are in standardised units. `class` is by relative norm and `bounds`; two sources have the
    classes of the other CONVENTIONS beside it. `density` is the share of rows on which it fires,
    `mean_activation` its value where it does. `top_domain` is the one in which it is densest over one
    half of the documents, and `top_domain_share` its density there over the sum of its densities,
    both over the other half: the best of several is not better by chance. They are null where it
    fires on no row of the first half; the share also where on none of the second. The decoder cosine
    needs two sources of equal width and speaks of alignment only where they share a basis.
    """
    shape = dictionary.shape
    norms = dictionary.norms().double().cpu().numpy()  # [F, S]
    paired = len(sources) == 2
    relative = relative_norm(norms) if paired else None
    blocks = shape.blocks()
    alive = measured.fired > 0
    top, share = _selectivity(measured)
    nothing = np.full(shape.features, np.nan)
    columns = {
        "feature": np.arange(shape.features),
        "block": [_block_label(block, sources) for block in blocks],
        "class": classify(blocks, measured.fired, relative, dead_below, bounds),
        **(_other_classes(blocks, measured.fired, norms, dead_below) if paired else {}),
        **{f"decoder_norm_{name}": norms[:, s] for s, name in enumerate(sources)},
        "relative_norm": nothing if relative is None else relative,
        "decoder_cosine": _decoder_cosine(dictionary) if paired else nothing,
        "fired": measured.fired,
        "density": measured.fired / measured.rows,
        "mean_activation": np.where(
            alive, measured.activation / np.maximum(measured.fired, 1), np.nan
        ),
        "top_domain": [None if place < 0 else domains[place] for place in top],
        "top_domain_share": share,
    }
    return pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))


def _other_classes(
    blocks: Sequence[str], fired: np.ndarray, norms: np.ndarray, dead_below: int
) -> dict[str, list[str]]:
    """Columns of classes under the conventions that the config does not set."""
    relative, ratio = relative_norm(norms), norm_ratio(norms)
    return {
        CONVENTIONS["strict"]: classify(blocks, fired, relative, dead_below, STRICT),
        CONVENTIONS["ratio"]: classify(blocks, fired, ratio, dead_below, RATIO),
    }


def _selectivity(measured: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Place of the densest domain in one half (-1: none), and the share of density there in the other."""
    rows = np.maximum(measured.domain_rows, 1)[:, None]  # [half, 1, domain]
    choosing, reported = measured.fired_in / rows  # [F, domain] each
    top = np.where(choosing.any(1), choosing.argmax(1), -1)
    there = reported[np.arange(len(top)), top]
    known = (top >= 0) & reported.any(1)
    return top, np.divide(there, reported.sum(1), out=np.full(len(top), np.nan), where=known)


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


def class_counts(table: pl.DataFrame, column: str = "class") -> dict[str, int]:
    """Features of each class in a column of classes; the counts sum to the number of features."""
    found = dict(table.group_by(column, maintain_order=True).len().iter_rows())
    paired = table["relative_norm"].null_count() < len(table)
    return {name: found.get(name, 0) for name in (CLASSES if paired else ("tied", "dead", LIVE))}


def conventions(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Features of each class under each of CONVENTIONS that a table has: one row a pair of them."""
    return [
        {"convention": name, "class": of, "count": count}
        for name, column in CONVENTIONS.items()
        if column in table.columns
        for of, count in class_counts(table, column).items()
    ]
