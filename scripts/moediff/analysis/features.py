"""One row a feature: its block, its class, its norms and where it fires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch

from moediff.analysis.classes import CONVENTIONS, RATIO, STRICT, classify, norm_ratio, relative_norm
from moediff.analysis.measured import Measured
from moediff.dictionaries.dictionary import Dictionary, in_float64


def feature_table(
    dictionary: Dictionary,
    measured: Measured,
    sources: Sequence[str],
    domains: Sequence[str],
    dead_below: int,
    bounds: tuple[float, float],
) -> pl.DataFrame:
    """One row a feature, of one dictionary over validation rows.

    Norms are in standardised units, computed in float64. `class` is by relative norm and `bounds`; two
    sources have the classes of the other CONVENTIONS beside it. `density` is the share of rows on which
    it fires, `mean_activation` its value where it does. `top_domain` is the one in which it is densest
    over one half of the documents, and `top_domain_share` its density there over the sum of its
    densities, both over the other half: the best of several is not better by chance. They are null where
    it fires on no row of the first half; the share also where on none of the second. The decoder cosine
    needs two sources of equal width and speaks of alignment only where they share a basis.
    """
    dictionary = in_float64(dictionary)
    shape = dictionary.shape
    norms = dictionary.norms().cpu().numpy()  # [F, S]
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
    return torch.where(norms > 0, cosine, torch.nan).cpu().numpy()
