"""Which features of a row are active: what training selects by, and the registry of rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from moediff.dictionaries.entries import Entries
from moediff.dictionaries.scores import Scores, kth, where
from moediff.dictionaries.sharing import Sharing

# When fewer scores than wanted reach a guessed floor, the floor is lowered by this factor and they are
# looked for again; below LEAST_GUESS every positive score is taken.
LOWERED, LEAST_GUESS = 0.8, 1e-3
ALL = Sharing()  # one process has all rows and features


def batch_top(
    scores: Scores, count: int, guess: float = 0.0, sharing: Sharing = ALL
) -> tuple[Entries, Tensor]:
    """The `count` largest positive scores of a whole batch (BatchTopK, 2412.06410).

    Exact: among equal scores at the edge those first by row, then feature, are taken. `guess` is a
    score that a little more than `count` entries are expected to reach (somewhat below the edge of
    the batch before); it only saves time. When too few reach it the selection looks lower. Where ranks
    share the batch, in the order of its rows, or the features, those of this rank are given, and `guess` is
    one for all.
    """
    ranks = sharing.all
    if guess <= 0:  # nothing is known yet: what each row's own k-th score says
        k = max(1, count // int(sharing.rows.total(scores.shape[0])))
        guess = ranks.total(float(scores.row_floor(k).clamp_min(0).mean())) / ranks.count
    entries, candidates = scores.at_least(guess)
    while (found := ranks.each(len(candidates))).sum() < count and guess > 0:
        guess = LOWERED * guess if guess > LEAST_GUESS else 0.0
        entries, candidates = scores.at_least(guess)
    every = torch.cat(ranks.gathered(candidates, found))
    if len(every) <= count:
        return entries, candidates
    edge = every.topk(count, sorted=False).values.min()
    chosen = candidates > edge
    equal = (candidates == edge).nonzero().squeeze(1)
    left = count - int((every > edge).sum())
    if int((every == edge).sum()) == left:  # as it is nearly always
        chosen[equal] = True
    else:
        chosen[equal] = sharing.first((entries[0][equal], entries[1][equal]), left)
    return where(entries, candidates, chosen)


def row_top(scores: Scores, k: int) -> tuple[Entries, Tensor]:
    """The k largest positive scores of each row (TopK); among equals those first by feature."""
    entries, candidates = scores.at_least(scores.row_floor(k))
    chosen = _largest(entries[0], candidates, scores.shape[0], k)
    return (entries, candidates) if chosen is None else where(entries, candidates, chosen)


def row_top_of_all(
    entries: Entries, scores: Tensor, size: int, k: int, sharing: Sharing
) -> tuple[Entries, Tensor]:
    """Of the k largest of each of `size` rows on every rank those that are so of all ranks' features."""
    ranks = sharing.features
    if ranks.count == 1:
        return entries, scores
    counts = ranks.each(len(scores))
    keys = ranks.gathered(sharing.keys(entries), counts)
    order = torch.cat(keys).argsort()
    rows = torch.cat(keys).div(sharing.count, rounding_mode="floor")
    every = torch.cat(ranks.gathered(scores, counts))
    largest = _largest(rows[order], every[order], size, k)
    if largest is None:
        return entries, scores
    chosen = torch.empty_like(largest)
    chosen[order] = largest
    return where(entries, scores, chosen.split(counts.astype(int).tolist())[ranks.rank])


def _largest(rows: Tensor, candidates: Tensor, size: int, k: int) -> Tensor | None:
    """Which candidates [n], sorted by row, are the k largest of theirs; among equals the first ones.

    None: all of them.
    """
    counts = torch.bincount(rows, minlength=size)
    widest = int(counts.max())
    if widest <= k:  # the floors were exact
        return None
    starts = counts.cumsum(0) - counts
    table = candidates.new_full((size, widest), -torch.inf)
    table[rows, torch.arange(len(rows), device=rows.device) - starts[rows]] = candidates
    edge = kth(table, k).squeeze(1)[rows]
    above, equal = candidates > edge, candidates == edge
    room = k - torch.bincount(rows[above], minlength=size)
    before = equal.cumsum(0) - equal.long()  # equals in front of an entry, in all rows
    first = before[starts.clamp_max(len(rows) - 1)]  # in all rows in front of its own
    return above | (equal & (before - first[rows] < room[rows]))


class Rule(nn.Module, ABC):
    """What every rule has."""

    def __init__(self, recipe: Mapping[str, Any], features: int, sharing: Sharing = ALL) -> None:
        """Of so many `features`: of those that the rank holds."""
        super().__init__()
        self.features, self.sharing = features, sharing

    @abstractmethod
    def forward(self, scores: Scores, k: int) -> tuple[Entries, Tensor]:
        """Entries of a batch and their scores; `k` a row where the rule keeps a number."""

    def gate(
        self, values: Tensor, scores: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Values [n] and, where thresholds are learned, 1 for each entry that fires."""
        return values, None

    def project(self) -> None:
        """Bring parameters back into their range after a step of the optimizer."""

    def thresholds(self) -> Tensor | None:
        """Score [feature] at which a feature fires; None: the exact order statistic of k a row."""
        return None


class KLargest(Rule):
    """A given number of features; which ones says `largest`."""

    # The floor from which a batch's largest scores are looked for, as a share of the smallest score that
    # was selected in the batch before. Selection is exact whatever it is: a floor too high costs a second
    # look, one too low more scores to sort; from one batch to the next the edge seldom falls by 4 %.
    FLOOR_SHARE = 0.96

    def __init__(self, recipe: Mapping[str, Any], features: int, sharing: Sharing = ALL) -> None:
        super().__init__(recipe, features, sharing)
        self.edge = 0.0  # smallest score selected in the last batch

    @staticmethod
    @abstractmethod
    def largest(
        scores: Scores, k: int, guess: float = 0.0, sharing: Sharing = ALL
    ) -> tuple[Entries, Tensor]:
        """Entries of a batch and their scores, given k a row; `guess` as in `batch_top`."""

    def forward(self, scores: Scores, k: int) -> tuple[Entries, Tensor]:
        entries, selected = self.largest(scores, k, self.FLOOR_SHARE * self.edge, self.sharing)
        self.edge = self.sharing.all.least(float(selected.min()) if len(selected) else 0.0)
        return entries, selected


class BatchTopK(KLargest):
    """The largest scores of a whole batch, k a row on average (2412.06410)."""

    @staticmethod
    def largest(
        scores: Scores, k: int, guess: float = 0.0, sharing: Sharing = ALL
    ) -> tuple[Entries, Tensor]:
        return batch_top(scores, k * int(sharing.rows.total(scores.shape[0])), guess, sharing)


class TopK(KLargest):
    """The k largest scores of each row (2406.04093)."""

    @staticmethod
    def largest(
        scores: Scores, k: int, guess: float = 0.0, sharing: Sharing = ALL
    ) -> tuple[Entries, Tensor]:
        return row_top_of_all(*row_top(scores, k), scores.shape[0], k, sharing)


class ReLU(Rule):
    """Every positive score; only a penalty makes it sparse."""

    def forward(self, scores: Scores, k: int) -> tuple[Entries, Tensor]:
        return scores.at_least(0.0)

    def thresholds(self) -> Tensor | None:
        return torch.zeros(self.features)


class JumpReLU(Rule):
    """Scores above a threshold of each feature, learned straight through (2407.14435).

    The step at a threshold has no gradient; a rectangle of width `bandwidth` around it stands in.
    Thresholds are of scores, so that a feature whose decoder grows as its code shrinks keeps its
    own, and are learned as they are: under Adam their logarithm hardly moves in a short run.
    """

    def __init__(self, recipe: Mapping[str, Any], features: int, sharing: Sharing = ALL) -> None:
        super().__init__(recipe, features, sharing)
        self.bandwidth = recipe["bandwidth"]
        self.threshold = nn.Parameter(torch.full((features,), recipe["bandwidth"]))

    def forward(self, scores: Scores, k: int) -> tuple[Entries, Tensor]:
        """Those that fire, and those whose threshold is less than half a bandwidth away."""
        return scores.at_least(self.threshold.detach() - self.bandwidth / 2)

    def gate(
        self, values: Tensor, scores: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        threshold = self.threshold[features]
        steps = _Step.apply(scores, threshold, self.bandwidth)
        # values * steps, but a value's own gradient does not pass through the step.
        return values * steps.detach() + values.detach() * (steps - steps.detach()), steps

    @torch.no_grad()
    def project(self) -> None:
        self.threshold.clamp_(min=0)

    def thresholds(self) -> Tensor | None:
        return self.threshold.detach()


class _Step(torch.autograd.Function):
    """1 where a score is at least its threshold, else 0; the gradient reaches the threshold alone."""

    @staticmethod
    def forward(ctx, scores, threshold, bandwidth):
        ctx.save_for_backward((scores - threshold).abs() < bandwidth / 2)
        ctx.bandwidth = bandwidth
        return (scores >= threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx, grad):
        (near,) = ctx.saved_tensors
        return None, -grad * near / ctx.bandwidth, None


# Name in a recipe -> rule. A new one is a class, its entry here and its name in config/schema.yaml.
RULES: dict[str, type[Rule]] = {
    "batchtopk": BatchTopK,
    "topk": TopK,
    "relu": ReLU,
    "jumprelu": JumpReLU,
}
# Those that select a given number of features, of which alone a code can be asked with k.
KEEPS_K = {name: rule for name, rule in RULES.items() if issubclass(rule, KLargest)}
