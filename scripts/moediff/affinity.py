"""Experts and features: what does a feature's firing tell of the experts that were chosen?

**Information, within token id.** Routing and features both follow the token, so a feature of one
word and an expert for that word share information that says nothing of experts. What counts is

    I(firing; expert | token) = sum over t of p(t) I(firing; expert | token t)      [nats]

over the rows of token ids that occur twice or more (one row of an id says nothing). A feature fires
or not, by its threshold; an expert is among those that a row used or not. The routing is one
source's, the same for all features, so that features of a dense model are the control: what they
have goes through context alone.

**Its null is exact.** Many small strata bias the plug-in value upwards, and Miller and Madow's term,
made for large samples, does not take that away. Under the null the experts of the rows of one token
id are shuffled. The margins of the 2 x 2 table of an id (n rows, a firings, b choices) then stay,
and the joint count is hypergeometric: mean and variance of the information are sums over its
support (the mean is that of the adjusted mutual information, Vinh et al. 2010), and ids are
independent. Seeded shuffles would give the same with noise of their own and at many times the cost.
Corrected is the plug-in value less the null mean, z that over the null sd. With one firing or two
the null is skewed: z then has mean 0 and variance 1, but is no normal variable.

For the choice of a row as a whole (which set of experts), the mean would be as easy and the variance
not: there its null is estimated by seeded shuffles.

    F  features      E  experts      k  experts that a row uses
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from moediff.dictionary import Dictionary
from moediff.errors import UserError
from moediff.evaluation import coded
from moediff.hooks import Point
from moediff.store import AlignedRows, half_of

CELLS = 1 << 21  # of tables that are worked on at once
SHUFFLES = 20
_ROUNDING = 1e-12
NONE = -1  # the expert of a feature that has none


# --- what fires, and in which rows --------------------------------------------------------------


@dataclass(frozen=True)
class Firings:
    """The features that fire on each row: those of row r are `features[starts[r] : starts[r + 1]]`.

    Four bytes a firing, eight a row.
    """

    features: np.ndarray  # [firing], int32
    starts: np.ndarray  # [row + 1], int64
    count: int  # features there are, F

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Place in `rows`, which are row numbers, and feature of each of their firings."""
        sizes = self.starts[rows + 1] - self.starts[rows]
        first = np.cumsum(sizes) - sizes
        place = np.repeat(np.arange(len(rows)), sizes)
        return place, self.features[np.arange(len(place)) + (self.starts[rows] - first)[place]]

    def fired(self) -> np.ndarray:
        """Rows on which each feature fires [F]."""
        return np.bincount(self.features, minlength=self.count)

    def take(self, rows: np.ndarray) -> Firings:
        """Those of some rows, in that order."""
        sizes = self.starts[rows + 1] - self.starts[rows]
        return Firings(self.of(rows)[1], np.concatenate([[0], np.cumsum(sizes)]), self.count)


@torch.no_grad()
def firings(dictionary: Dictionary, data: AlignedRows, batch: int, device: torch.device) -> Firings:
    """What a dictionary fires on every row, by its thresholds, in float64 as `evaluation` does."""
    features, sizes = [], []
    for rows, (row, feature), _ in coded(dictionary, data, batch, device, "firings"):
        features.append(feature.to(torch.int32).cpu().numpy())
        sizes.append(torch.bincount(row, minlength=len(rows)).cpu().numpy())
    starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    return Firings(np.concatenate(features), starts, dictionary.shape.features)


class _Block(NamedTuple):
    """Some token ids, with all their rows. A pair is a feature and an id in which it fires."""

    rows: np.ndarray  # [row], numbers, id by id
    stratum: np.ndarray  # [row], which id, from 0
    place: np.ndarray  # [firing], its row's place in `rows`
    pair: np.ndarray  # [firing], number of its pair
    feature: np.ndarray  # [pair], sorted
    of: np.ndarray  # [pair], its id
    n: np.ndarray  # [pair], rows of the id
    a: np.ndarray  # [pair], firings among them


def _blocks(fired: Firings, tokens: np.ndarray, cells: int) -> Iterator[_Block]:
    """The token ids that occur twice or more, as many at once as fire `cells` times, one at least."""
    order = np.argsort(tokens, kind="stable")
    sizes = np.unique(tokens, return_counts=True)[1]
    order, sizes = order[np.repeat(sizes > 1, sizes)], sizes[sizes > 1]
    ends = np.cumsum(sizes)
    each = np.add.reduceat(np.diff(fired.starts)[order], ends - sizes) if len(sizes) else sizes
    for first, last in _cuts(np.maximum(each, sizes), cells):
        inside = sizes[first:last]
        rows = order[ends[first] - sizes[first] : ends[last - 1]]
        stratum = np.repeat(np.arange(len(inside)), inside)
        place, feature = fired.of(rows)
        key = feature.astype(np.int64) * len(inside) + stratum[place]
        found, pair, a = np.unique(key, return_inverse=True, return_counts=True)
        feature, of = np.divmod(found, len(inside))
        yield _Block(rows, stratum, place, pair, feature, of, inside[of], a)


def _cuts(sizes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """First and last of stretches whose sizes sum to at most `most`, or that are one long."""
    sums, first = np.concatenate([[0], np.cumsum(sizes)]), 0
    while first < len(sizes):
        last = int(np.searchsorted(sums, sums[first] + most, "right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last


# --- information and its null -------------------------------------------------------------------


@dataclass(frozen=True)
class Information:
    """Conditional mutual information in nats and its null; all [F, E], or [F] of the whole choice.

    0, and a null of 0 with sd 0, where nothing could be seen: the feature fired on none or all rows
    of every token id, or the expert was chosen so.
    """

    value: np.ndarray  # plug-in
    null_mean: np.ndarray
    null_sd: np.ndarray
    rows: int  # of token ids that occur twice or more: what p(t) is a share of

    @property
    def corrected(self) -> np.ndarray:
        """The plug-in value less its null mean."""
        return self.value - self.null_mean

    @property
    def z(self) -> np.ndarray:
        """Corrected over the null sd; NaN where that is 0."""
        known = self.null_sd > 0
        return np.divide(
            self.corrected, self.null_sd, out=np.full(known.shape, np.nan), where=known
        )


class _Logs:
    """log c! and c log c of counts up to `most`."""

    def __init__(self, most: int) -> None:
        counts = torch.arange(most + 1, dtype=torch.float64)
        self.factorial = torch.lgamma(counts + 1).numpy()
        self.plogp = torch.special.xlogy(counts, counts).numpy()

    def information(self, n: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        """n times the mutual information of 2 x 2 tables of n rows, margins a and b, joint count c."""
        f = self.plogp
        joint = f[c] + f[a - c] + f[b - c] + f[n - a - b + c]
        return joint - f[a] - f[n - a] - f[b] - f[n - b] + f[n]

    def null(self, n: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of n times the information, with c hypergeometric; no margin is 0 or n.

        Information is that of the rarer halves of both margins, whose support begins at 0. Counts
        that are rarer than 1e-26 (Bernstein) are left out.
        """
        a, b = np.minimum(a, n - a), np.minimum(b, n - b)
        centre = a * b / n
        reach = 12 * np.sqrt(centre * (n - a) * (n - b) / (n * (n - 1.0))) + 40
        low = np.maximum(np.floor(centre - reach), 0).astype(np.int64)
        high = np.minimum(np.minimum(a, b), np.ceil(centre + reach)).astype(np.int64)
        width = high - low + 1
        mean, variance = np.empty(len(n)), np.empty(len(n))
        for first, last in _cuts(width, CELLS):
            part = slice(first, last)
            sizes = width[part]
            starts = np.cumsum(sizes) - sizes
            of = np.repeat(np.arange(last - first), sizes)
            c = np.arange(len(of)) - (starts - low[part])[of]
            n_, a_, b_ = n[part][of], a[part][of], b[part][of]
            f = self.factorial
            weight = -(f[c] + f[a_ - c] + f[b_ - c] + f[n_ - a_ - b_ + c])
            weight = np.exp(weight - np.maximum.reduceat(weight, starts)[of])
            weight /= np.add.reduceat(weight, starts)[of]
            found = self.information(n_, a_, b_, c)
            mean[part] = np.add.reduceat(weight * found, starts)
            variance[part] = np.add.reduceat(weight * (found - mean[part][of]) ** 2, starts)
        return mean, variance


def affinity(
    fired: Firings, tokens: np.ndarray, experts: np.ndarray, n_experts: int
) -> Information:
    """I(firing; expert | token) of every feature and expert [F, E], and its exact null.

    `tokens` [row] and `experts` [row, k] (each at most once a row) stand beside the firings. Sums in
    float64. Beside its arguments it holds three tables [F, E] and about 200 bytes for each of CELLS
    cells, or F E cells where one token id alone has more. Raises UserError where an expert's number is
    not below `n_experts`, or rows differ in number.
    """
    experts = np.asarray(experts, np.int64)
    _check_rows(fired, tokens, experts)
    if experts.size and not 0 <= experts.min() <= experts.max() < n_experts:
        raise UserError(f"experts {experts.min()} to {experts.max()}, where there are {n_experts}")
    seen = _seen_again(tokens)
    logs = _Logs(int(seen.max(initial=0)))
    value, mean, variance = (np.zeros(fired.count * n_experts) for _ in range(3))
    for block in _blocks(fired, tokens, max(CELLS // n_experts, 1)):
        mine = experts[block.rows]  # [row, k]
        strata = int(block.stratum[-1]) + 1
        used = np.zeros((strata, n_experts), np.int64)
        joint = np.zeros(len(block.of) * n_experts, np.int64)  # [pair, expert]
        for chosen in mine.T:
            np.add.at(used, (block.stratum, chosen), 1)
            joint += np.bincount(block.pair * n_experts + chosen[block.place], minlength=len(joint))
        b = used[block.of]  # [pair, expert]
        varies = ((block.a < block.n)[:, None] & (b > 0) & (b < block.n[:, None])).ravel()
        live = np.flatnonzero(varies)  # cells of this block; all others have no information
        pair, expert = np.divmod(live, n_experts)
        n, a, b = block.n[pair], block.a[pair], b.ravel()[live]
        cell = block.feature[pair] * n_experts + expert
        np.add.at(value, cell, logs.information(n, a, b, joint[live]))
        tables, which = _distinct(n, a, b)
        for total, found in zip((mean, variance), logs.null(*tables), strict=True):
            np.add.at(total, cell, found[which])
    rows = int(seen.sum())
    parts = (value, mean, np.sqrt(variance))
    return Information(
        *(part.reshape(fired.count, n_experts) / max(rows, 1) for part in parts), rows
    )


def _distinct(*columns: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """The distinct rows of columns [cell], column by column, and which of them each cell has."""
    key = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        # By rank, so that the key never leaves 64 bits however large the counts.
        ranks, rank = np.unique(column, return_inverse=True)
        key = key * len(ranks) + rank
    _, first, which = np.unique(key, return_index=True, return_inverse=True)
    return [column[first] for column in columns], which


def whole_choice(
    fired: Firings,
    tokens: np.ndarray,
    experts: np.ndarray,
    shuffles: int = SHUFFLES,
    seed: int = 0,
) -> Information:
    """I(firing; set of experts | token) of every feature [F], its null from seeded shuffles.

    A shuffle permutes the sets of the rows of each token id. The null sd is that of a value less the
    mean of so many: it holds the mean's own error. With many experts nearly every row has a set of
    its own, which would tell all of any firing; next to nothing is then left above chance. Memory as
    of `affinity`, one cell a firing.
    """
    _check_rows(fired, tokens, experts)
    sets = np.unique(np.sort(experts, axis=1), axis=0, return_inverse=True)[1].ravel()  # [row]
    seen = _seen_again(tokens)
    logs = _Logs(int(seen.max(initial=0)))
    total = np.zeros((1 + shuffles, fired.count))
    for number, block in enumerate(_blocks(fired, tokens, CELLS)):
        random = np.random.default_rng([seed, number])
        _, label = np.unique(
            block.stratum * (int(sets.max()) + 1) + sets[block.rows], return_inverse=True
        )  # [row], of a set in an id
        b = np.bincount(label)
        f = logs.plogp
        margin = f[block.n] - f[block.a] - f[block.n - block.a]  # [pair]
        for turn in range(1 + shuffles):
            mine = label
            if turn:
                mine = label[np.lexsort((random.random(len(label)), block.stratum))]
            cells, c = np.unique(block.pair * len(b) + mine[block.place], return_counts=True)
            pair, which = np.divmod(cells, len(b))
            found = f[c] + f[b[which] - c] - f[b[which]]  # 0 where c is
            total[turn] += np.bincount(block.feature, margin, fired.count)
            total[turn] += np.bincount(block.feature[pair], found, fired.count)
    rows = int(seen.sum())
    total /= max(rows, 1)
    sd = total[1:].std(axis=0, ddof=1) * (1 + 1 / shuffles) ** 0.5
    sd[sd < _ROUNDING] = 0.0  # every shuffle tells as much, and their mean is rounded
    return Information(total[0], total[1:].mean(axis=0), sd, rows)


def _check_rows(fired: Firings, tokens: np.ndarray, experts: np.ndarray) -> None:
    rows = len(fired.starts) - 1
    if not rows == len(tokens) == len(experts):
        raise UserError(
            f"firings of {rows} rows, tokens of {len(tokens)} and experts of {len(experts)}"
        )


def _seen_again(tokens: np.ndarray) -> np.ndarray:
    """Rows of each token id that occurs twice or more."""
    sizes = np.unique(tokens, return_counts=True)[1]
    return sizes[sizes > 1]


# --- of a dictionary ----------------------------------------------------------------------------


def layers_of(data: AlignedRows, source: int) -> list[int]:
    """Layers of a source whose routing is stored and done by its hook point."""
    point = Point.named(data.origins[source]["hook"])
    return [layer for layer in data.sources[source][0].routed() if layer < point.feed_forwards]


def feature_affinity(
    dictionary: Dictionary,
    data: AlignedRows,
    source: int,
    layers: Sequence[int],
    batch: int,
    device: torch.device,
) -> pl.DataFrame:
    """One row a feature and layer: the expert that its firing tells most of, and how much.

    The expert is the one with the largest corrected information over one half of the documents; all
    numbers are of the other half (those of odd id), so that the best of many is not better by
    chance. `source` is the MoE whose routing and token ids are taken. Columns: `feature`, `layer`,
    `expert` (null where none could be told), `fired` (in the measured half), `information`,
    `null_mean`, `null_sd`, `corrected`, `z` of that expert; the same of the whole choice, with
    `whole_` before. In nats. Memory: 4 bytes a firing, twice; see `affinity`. Raises UserError where
    a layer's routing is not stored, or lies behind the hook.
    """
    known = layers_of(data, source)
    for layer in layers:
        if layer not in known:
            stored = ", ".join(map(str, known)) or "none"
            raise UserError(
                f"source {source}: no routing of layer {layer} is stored below its hook point "
                f"(layers: {stored}); see activations.routing"
            )
    every = firings(dictionary, data, batch, device)
    halves_of = half_of(data.column("document", source))
    halves = [np.flatnonzero(halves_of == half) for half in range(2)]
    fired = [every.take(rows) for rows in halves]
    tokens = data.column("token", source)
    tables = []
    for layer in layers:
        experts = data.column(f"experts.{layer}", source)
        count = int(experts.max()) + 1
        choosing, measured = (
            affinity(part, tokens[rows], experts[rows], count)
            for part, rows in zip(fired, halves, strict=True)
        )
        whole = whole_choice(fired[1], tokens[halves[1]], experts[halves[1]])
        best = _best(choosing)
        place = np.arange(every.count), np.maximum(best, 0)
        columns = {
            "feature": np.arange(every.count),
            "layer": np.full(every.count, layer),
            "expert": best,
            "fired": fired[1].fired(),
        }
        for prefix, found, at in (("", measured, place), ("whole_", whole, ...)):
            columns |= {
                f"{prefix}information": found.value[at],
                f"{prefix}null_mean": found.null_mean[at],
                f"{prefix}null_sd": found.null_sd[at],
                f"{prefix}corrected": found.corrected[at],
                f"{prefix}z": found.z[at],
            }
        tables.append(_with_nulls(columns))
    return pl.concat(tables)


def _best(found: Information) -> np.ndarray:
    """Expert [F] of the largest corrected information; -1 where nothing could be seen of any."""
    corrected = np.where(found.null_sd > 0, found.corrected, -np.inf)
    return np.where((found.null_sd > 0).any(1), corrected.argmax(1), NONE)


def _with_nulls(columns: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """A table in which no expert, and what is of none, is null."""
    table = pl.DataFrame(columns)
    own = ("information", "null_mean", "null_sd", "corrected", "z")
    some = pl.col("expert") >= 0
    return table.with_columns(pl.when(some).then(pl.col("expert", *own))).with_columns(
        pl.selectors.float().fill_nan(None)
    )
