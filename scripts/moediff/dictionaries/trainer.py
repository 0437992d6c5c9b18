"""One dictionary in training: score, select, decode, loss, one optimizer step at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moediff.config.base import count_of
from moediff.core import checkpoint
from moediff.core.device import has_bfloat16
from moediff.core.ranks import ALONE, Ranks
from moediff.dictionaries.adam import Adam
from moediff.dictionaries.blocks import Block, widen
from moediff.dictionaries.dictionary import Dictionary
from moediff.dictionaries.entries import Entries, localise
from moediff.dictionaries.objectives import LOSSES, PENALTIES, Code
from moediff.dictionaries.products import selected_values, sparse_decode
from moediff.dictionaries.scores import DenseScores, Linear, Scratch
from moediff.dictionaries.selection import KEEPS_K, RULES, row_top, row_top_of_all
from moediff.dictionaries.sharing import Sharing

# The peak learning rate of a recipe that names none is PEAK_RATE over the root of D in runs of at most
# SHORT_RUN steps; in longer ones it falls with their fifth root (benchmarks/README.md, quality of a short
# run).
PEAK_RATE, SHORT_RUN = 0.06, 300
# A feature counts as dead, and AuxK begins to use it, when it has not fired for as many rows as an average
# feature takes to fire this often (features / k rows a firing).
MISSED_FIRINGS = 128
# A block, its dead features, their places among all dead ones, and their ranking weights.
Dead = tuple[Block, Tensor, slice, Tensor]


def default_rate(width: int, steps: int) -> float:
    """Peak learning rate of a recipe that names none."""
    return PEAK_RATE / width**0.5 * min(1.0, SHORT_RUN / steps) ** 0.2


class Fitter:
    """A dictionary in training: its whole state in tensors, so that any step can be resumed.

    The loss of a batch is the recipe's loss of the residual, a mean over its prefixes (Matryoshka),
    the recipe's penalties, and AuxK (2406.04093, appendix A.2): dead features, at most `aux_k` a row
    by score, rebuild what is left of the row, without bias. The gradient of AuxK reaches their
    encoders and decoders and nothing else. A feature that dies with a bias below all that its rows
    can lift gets one that a few reach (our addition: no gradient reaches it there).

    Of several `ranks` each holds the whole dictionary and takes its part of every batch, and gradients are
    summed; or it holds a part of the dictionary and takes every batch whole, and what features decode to is
    summed. What is selected, dead or clipped is so of the whole batch and of all features.
    """

    def __init__(
        self, dictionary: Dictionary, recipe: Mapping[str, Any], ranks: Ranks = ALONE
    ) -> None:
        device, part = dictionary.decoder_bias.device, dictionary.part
        self.dictionary, self.sharing = dictionary, Sharing.of(ranks, part, device)
        self.recipe = recipe
        self.steps = max(1, recipe["rows"] // recipe["batch"])
        whole, features = (
            dictionary.shape if part is None else part.whole,
            dictionary.shape.features,
        )
        self.features = whole.features  # of all ranks
        share, average = recipe["dead_after"], self.features / recipe["k"]
        self.dead_after = (  # rows without firing
            MISSED_FIRINGS * average if share is None else share * self.steps * recipe["batch"]
        )
        self.aux_k = recipe["aux_k"] or max(1, sum(dictionary.shape.widths) // 2)
        prefixes = [count_of(part, self.features) for part in recipe["prefixes"]]
        self.prefixes = [self.sharing.below(stop) for stop in prefixes]
        self.silent = torch.zeros(features, dtype=torch.int64, device=device)
        self.rule = RULES[recipe["select"]](recipe, features, self.sharing).to(device)
        self.trained = nn.ModuleDict({"dictionary": dictionary, "rule": self.rule})
        first, second = recipe["betas"]  # torch takes no 0 for 0.0
        self.optimizer = Adam(
            self.trained.parameters(),
            lr=self.peak_rate,
            betas=(float(first), float(second)),
            fused=True,
        )
        self.scratch = Scratch()
        self.step = 0
        self.violations = 0  # of the bounds of screening, in this process; 0 or screening is wrong
        # A rule without k selects so many at first that computing each of them costs more.
        auto = recipe["select"] in KEEPS_K and has_bfloat16(device)
        self.screened = auto if recipe["screen"] == "auto" else recipe["screen"]

    # --- schedules ---

    @property
    def peak_rate(self) -> float:
        """The recipe's, or one that moves encoder rows alike at every width (our definition)."""
        widths = self.dictionary.shape.widths
        return self.recipe["lr"] or default_rate(sum(widths), self.steps)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, constant, then linear to 0 over the last `decay` of the steps."""
        recipe = self.recipe
        rising = (step + 1) / max(1, round(recipe["warmup"] * self.steps))
        falling = (self.steps - step) / max(1, round(recipe["decay"] * self.steps))
        return self.peak_rate * min(1.0, rising, falling)

    def k(self, step: int) -> int:
        """Features a row: from `k_start` to k in a line over the first `k_anneal` of the steps."""
        k, start = self.recipe["k"], self.recipe["k_start"]
        if start is None:
            return k
        done = min(1.0, step / max(1, round(self.recipe["k_anneal"] * self.steps)))
        return round(start + (k - start) * done)

    # --- a step ---

    def update(self, rows: Tensor) -> dict[str, float]:
        """One optimizer step on standardised rows [row, D]; squared error and L0 sums before it.

        Of several ranks that share them the rows are those of this one; the sums are those of all.
        """
        model, recipe, sharing = self.dictionary, self.recipe, self.sharing
        size = int(sharing.rows.total(len(rows)))  # rows of all ranks
        share = len(rows) / size
        entries, scores, weight = self._select(rows)
        before = model.values(scores / weight[entries[1]], rows, entries)
        values, steps = self.rule.gate(before, scores, entries[1])
        residuals = self._residuals(rows, values, entries)
        losses = [LOSSES[recipe["loss"]](part, model.shape.widths) for part in residuals]
        loss = torch.stack(losses).mean()
        if sharing.rows.count > 1:
            loss = loss * share
        loss = loss + self._penalty(values, steps, entries[1], size)
        fired = entries[1] if steps is None else entries[1][steps.detach() > 0]
        self._count_silent(fired, size)
        dead = (self.silent > self.dead_after).nonzero().squeeze(1)
        active, dying = sharing.features.summed(
            np.array([len(fired), len(dead)], np.float64)
        ).tolist()
        if dying and recipe["aux_weight"]:
            self._lift(dead[self.silent[dead] - size <= self.dead_after], rows)
            left = self._auxiliary(rows, residuals[-1].detach(), dead, weight)
            loss = loss + recipe["aux_weight"] * left
        loss.backward()
        sharing.rows.sum_gradients(self.trained.parameters())
        self._clip()
        rate = self.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.rule.project()
        self.step += 1
        sums = {
            "error": float(residuals[-1].detach().square().sum()),
            "total": float(rows.square().sum()),
            "active": active,
            "rows": float(len(rows)),
        }
        whole = sharing.rows.summed(np.array(list(sums.values()))).tolist()
        return dict(zip(sums, whole, strict=True))

    def _select(self, rows: Tensor) -> tuple[Entries, Tensor, Tensor]:
        """Entries of a batch, their scores, and the ranking weights; all other scores are let go."""
        scores, weight = self.dictionary.score(rows, self.screened, self.scratch)
        entries, selected = self.rule(scores, self.k(self.step))
        self.violations += scores.violations
        return entries, selected, weight

    def _residuals(self, rows: Tensor, values: Tensor, entries: Entries) -> list[Tensor]:
        """What is left of the rows after the first features of each prefix; the last is of all."""
        model, start = self.dictionary, 0
        total, residuals = model.decoder_bias.expand(len(rows), -1), []
        for stop in self.prefixes[:-1]:
            inside, local = localise(entries, slice(start, stop))
            total = self._added(total, values[inside], (local[0], local[1] + start))
            residuals.append(rows - total)
            start = stop
        if start:
            inside, local = localise(entries, slice(start, model.shape.features))
            values, entries = values[inside], (local[0], local[1] + start)
        return [*residuals, rows - self._added(total, values, entries)]

    def _added(self, total: Tensor, values: Tensor, entries: Entries) -> Tensor:
        """Rows [row, D] with what the entries of all ranks decode to added."""
        if self.sharing.features.count == 1:
            return self.dictionary.add(total, values, entries)
        own = self.dictionary.add(torch.zeros_like(total), values, entries)
        return total + self.sharing.decoded(own)

    def _penalty(
        self, values: Tensor, steps: Tensor | None, features: Tensor, size: int
    ) -> Tensor | float:
        """The recipe's penalties, a mean over rows; tied features have a weight of their own."""
        total: Tensor | float = 0.0
        wanted = {name: settings for name, settings in self.recipe["penalties"].items() if settings}
        if not wanted:
            return total
        norms, count = self.dictionary.norms(), self.dictionary.shape.tied
        # A tied feature has one norm, the others one in each source.
        sizes = torch.cat([norms[:count].mean(1), norms[count:].sum(1)])
        code = Code(values, sizes.index_select(0, features), steps)
        tied = features < count
        for name, settings in wanted.items():
            weight = torch.where(tied, settings["weight"] * settings["tied"], settings["weight"])
            rise = min(1.0, (self.step + 1) / max(1, round(settings["ramp"] * self.steps)))
            total = total + rise * (weight * PENALTIES[name](code, settings)).sum() / size
        return total

    def _clip(self) -> None:
        """Scale the gradient to the recipe's norm, with no pass over it where it is smaller."""
        parameters, ranks = list(self.trained.parameters()), self.sharing.features
        every = self.dictionary.decoder_bias  # which each rank has
        counted = parameters if ranks.leads else [p for p in parameters if p is not every]
        norm = nn.utils.get_total_norm([p.grad for p in counted if p.grad is not None])
        if ranks.count > 1:
            norm = norm.new_tensor(ranks.total(float(norm) ** 2) ** 0.5)
        if norm > self.recipe["clip"]:
            nn.utils.clip_grads_with_norm_(parameters, self.recipe["clip"], norm)

    def _count_silent(self, features: Tensor, size: int) -> None:
        self.silent += size
        if self.sharing.rows.count > 1:
            fired = torch.zeros(len(self.silent), device=self.silent.device)
            fired[features] = 1
            self.sharing.rows.sum_([fired])
            features = fired.nonzero().squeeze(1)
        self.silent[features] = 0

    def dead_share(self) -> float:
        """Dead features among those of all ranks."""
        dead = self.silent > self.dead_after
        if self.sharing.features.count == 1:
            return float(dead.double().mean())
        return self.sharing.features.total(float(dead.sum())) / self.features

    # --- dead features ---

    @torch.no_grad()
    def _lift(self, features: Tensor, rows: Tensor) -> None:
        """Raise the bias, and drop its momentum, of newly dead features that no row activates.

        As many rows as an average feature fires on then activate it, faintly: AuxK reaches it, but
        it does not push its way into the codes of other rows.
        """
        size = int(self.sharing.rows.total(len(rows)))
        firings = size * self.recipe["k"] // self.features
        for block in self.dictionary.blocks.values():
            _, (inside, _) = localise((features, features), block.features)
            own = inside - block.features.start
            before = rows[:, block.columns] @ block.encoder[own].T + block.encoder_bias[own]
            lifted = (before > 0).any(0).float()
            self.sharing.rows.sum_([lifted])
            silent = lifted == 0
            own, before = own[silent], before[:, silent]
            block.encoder_bias[own] -= self._nth_largest(before, min(firings + 2, size))
            moments = self.optimizer.state[block.encoder_bias]
            for name in ("exp_avg", "exp_avg_sq"):
                if name in moments:
                    moments[name][own] = 0

    def _nth_largest(self, values: Tensor, n: int) -> Tensor:
        """Of every column of values [row, m] the n-th largest over the rows of all ranks: [m]."""
        columns = values.shape[1]  # as many on every rank
        if not columns:
            return values.new_zeros(0)
        largest = values.topk(min(n, len(values)), dim=0).values  # [n at most, m]
        parts = self.sharing.rows.gathered(largest.flatten())
        every = torch.cat([part.view(-1, columns) for part in parts])
        return every.topk(n, dim=0).values[-1]

    def _auxiliary(self, rows: Tensor, residual: Tensor, dead: Tensor, weight: Tensor) -> Tensor:
        """Share of the residual's sum of squares that the dead features leave."""
        parts = self._dead_parts(dead, weight)
        tables = [(block.encoder[own], block.encoder_bias[own]) for block, own, _, _ in parts]
        linear = [
            Linear(encoder.detach(), bias.detach(), weight, block.columns, here)
            for (encoder, bias), (block, _, here, weight) in zip(tables, parts, strict=True)
        ]
        entries, scores = self._dead_code(rows, linear, self.sharing.among(dead))
        known = scores / weight[dead][entries[1]]
        alone = self.sharing.features.count == 1
        left = residual if alone else torch.zeros_like(residual)
        for (encoder, bias), (block, own, here, _) in zip(tables, parts, strict=True):
            inside, local = localise(entries, here)
            values = selected_values(known[inside], rows[:, block.columns], encoder, bias, local)
            decoded = sparse_decode(values, block.decoder()[own], local, len(rows))
            left = left - widen(decoded, block.columns, rows.shape[1])
        left = left if alone else residual + self.sharing.decoded(left)
        whole = residual.square().sum()
        self.sharing.rows.sum_([whole])
        return left.square().sum() / whole.clamp_min(1e-12)

    def _dead_code(
        self, rows: Tensor, linear: Sequence[Linear], sharing: Sharing
    ) -> tuple[Entries, Tensor]:
        """Entries and scores of the dead features that rebuild the rows; a rank may have none of them."""
        none = rows.new_empty(0, dtype=torch.int64)
        found = ((none, none), rows.new_empty(0))
        if linear:
            found = row_top(DenseScores(rows, linear), self.aux_k)
        return row_top_of_all(*found, len(rows), self.aux_k, sharing)

    def _dead_parts(self, dead: Tensor, weight: Tensor) -> Sequence[Dead]:
        """The dead features of each block, as if they were a dictionary of their own."""
        parts: list[Dead] = []
        start = 0
        for block in self.dictionary.blocks.values():
            inside, (features, _) = localise((dead, dead), block.features)
            if len(inside):
                own = features - block.features.start
                parts.append((block, own, slice(start, start + len(own)), weight[features]))
                start += len(own)
        return parts

    # --- state ---

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on."""
        return checkpoint.state_of(self.trained, [self.optimizer]) | {"silent": self.silent}

    def restore(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Take up `state` after `step` steps, every tensor."""
        checkpoint.restore(self.trained, [self.optimizer], tensors)
        self.silent = tensors["silent"].to(self.silent.device)
        self.step = step
