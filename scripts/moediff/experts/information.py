"""Information of firing and experts within token id, and its exact null."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from moediff.core.errors import UserError
from moediff.experts.firings import Part, cuts, firing_blocks

CELLS = 1 << 21  # of tables that are worked on at once
SHUFFLES = 20
_ROUNDING = 1e-12


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
        for first, last in cuts(width, CELLS):
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


def affinity(parts: Iterable[Part], features: int, n_experts: int) -> Information:
    """I(firing; expert | token) of every feature and expert [F, E], and its exact null.

    All rows of a token id are in one part. Sums in float64. Beside a part it holds three tables [F, E] and
    about 200 bytes for each of CELLS cells, or F E cells where one token id alone has more. Raises UserError
    where an expert's number is not below `n_experts`, or columns differ in their rows.
    """
    value, mean, variance = (np.zeros(features * n_experts) for _ in range(3))
    rows = 0
    for part in parts:
        _check(part, n_experts)
        seen = _seen_again(part.tokens)
        rows += int(seen.sum())
        logs = _Logs(int(seen.max(initial=0)))
        for block in firing_blocks(part.fired, part.tokens, max(CELLS // n_experts, 1)):
            mine = np.asarray(part.experts, np.int64)[block.rows]  # [row, k]
            strata = int(block.stratum[-1]) + 1
            used = np.zeros((strata, n_experts), np.int64)
            joint = np.zeros(len(block.of) * n_experts, np.int64)  # [pair, expert]
            for chosen in mine.T:
                np.add.at(used, (block.stratum, chosen), 1)
                cells = block.pair * n_experts + chosen[block.place]
                joint += np.bincount(cells, minlength=len(joint))
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
    value, mean, sd = (
        sums.reshape(features, n_experts) / max(rows, 1)
        for sums in (value, mean, np.sqrt(variance))
    )
    return Information(value, mean, sd, rows)


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
    parts: Iterable[Part], features: int, shuffles: int = SHUFFLES, seed: int = 0
) -> Information:
    """I(firing; set of experts | token) of every feature [F], its null from seeded shuffles.

    A shuffle permutes the sets of the rows of each token id. The null sd is that of a value less the
    mean of so many: it holds the mean's own error. With many experts nearly every row has a set of
    its own, which would tell all of any firing; next to nothing is then left above chance. Memory as
    of `affinity`, one cell a firing.
    """
    total, rows, number = np.zeros((1 + shuffles, features)), 0, 0
    for part in parts:
        _check(part)
        seen = _seen_again(part.tokens)
        rows += int(seen.sum())
        logs = _Logs(int(seen.max(initial=0)))
        ordered = np.sort(part.experts, axis=1)
        sets = np.unique(ordered, axis=0, return_inverse=True)[1].ravel()  # [row]
        for block in firing_blocks(part.fired, part.tokens, CELLS):
            random = np.random.default_rng([seed, number])
            number += 1
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
                total[turn] += np.bincount(block.feature, margin, features)
                total[turn] += np.bincount(block.feature[pair], found, features)
    total /= max(rows, 1)
    sd = total[1:].std(axis=0, ddof=1) * (1 + 1 / shuffles) ** 0.5
    sd[sd < _ROUNDING] = 0.0  # every shuffle tells as much, and their mean is rounded
    return Information(total[0], total[1:].mean(axis=0), sd, rows)


def _check(part: Part, n_experts: int | None = None) -> None:
    rows, tokens, experts = len(part.fired.starts) - 1, part.tokens, part.experts
    if not rows == len(tokens) == len(experts):
        raise UserError(
            f"firings of {rows} rows, tokens of {len(tokens)} and experts of {len(experts)}"
        )
    if n_experts and experts.size and not 0 <= experts.min() <= experts.max() < n_experts:
        raise UserError(f"experts {experts.min()} to {experts.max()}, where there are {n_experts}")


def _seen_again(tokens: np.ndarray) -> np.ndarray:
    """Rows of each token id that occurs twice or more."""
    sizes = np.unique(tokens, return_counts=True)[1]
    return sizes[sizes > 1]
