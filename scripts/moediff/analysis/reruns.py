"""Models run again over stored text: the one place where a pass is made and its losses are taken.

    for (run,) in passes([model], ([Text(shard)] for shard in shards), False, 64, 8, "one expert"):
        with routing(model, keep(1)):
            losses = run.losses()  # [target]; run.domain and run.units say of what

`passes` runs over text alone, `stored_passes` also has the rows that are stored of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from moediff.activations.chunks import Chunk
from moediff.activations.rows import AlignedRows
from moediff.core.bootstrap import LEAST_GROUPS, Units
from moediff.core.errors import UserError
from moediff.core.progress import Progress
from moediff.corpus.alignment import PADDING
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point
from moediff.hooks.routing import routing, silence
from moediff.models.inputs import packed_inputs

log = logging.getLogger("moediff")
NO_LABEL = -100  # of a position at which nothing is predicted

# --- over text ----------------------------------------------------------------------------------


class Text(NamedTuple):
    """A token shard as one model reads it."""

    tokens: TokenShard
    kept: np.ndarray | None = None  # which tokens have a row: [sequence, position] of bool


@dataclass(frozen=True)
class Pass:
    """A model, and some sequences of a text that it reads at once."""

    model: PreTrainedModel
    text: Text
    part: slice | np.ndarray  # of its sequences: a stretch, or their numbers
    across_documents: bool  # whether attention crosses documents
    progress: Progress | None = None  # of all passes, to be told what a long one is at

    @property
    def tokens(self) -> TokenShard:
        return self.text.tokens

    @property
    def kept(self) -> Tensor:
        """Which tokens have a row: [sequence, position] of bool."""
        if self.text.kept is None:
            raise ValueError("a pass over text alone: which of its tokens have a row is not known")
        return torch.from_numpy(self.text.kept[self.part])

    @cached_property
    def starts(self) -> np.ndarray:
        """Whether a position is the first that attention sees: [sequence, position] of bool."""
        return segment_starts(self.tokens.document[self.part], self.across_documents)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Arguments of the model."""
        return packed_inputs(self.model, self.tokens.tokens[self.part], self.starts)

    @cached_property
    def target(self) -> np.ndarray:
        """Positions 1.. that are predicted: [sequence, position - 1] of bool.

        As in training: not the first that attention sees; and no padding.
        """
        return ~self.starts[:, 1:] & (self.tokens.document[self.part][:, 1:] != PADDING)

    @property
    def domain(self) -> np.ndarray:
        """Domain [target] of what is predicted."""
        return self.tokens.domain[self.part][:, 1:][self.target]

    @property
    def units(self) -> Units:
        """Group of documents, and its domain, [target] of what is predicted."""
        return Units(self.tokens.group[self.part][:, 1:][self.target], self.domain)

    def says(self, what: str) -> None:
        """Tell on the bar, or now and then in the log, what was just done with this pass."""
        if self.progress is not None:
            self.progress.advance(0, what)

    @torch.no_grad()
    def logits(self) -> Tensor:
        """What the model says of the token after each position, float [sequence, position, vocabulary]."""
        return self.model(**self.inputs).logits.float()

    def losses(self) -> np.ndarray:
        """Cross-entropy in nats of every target, float64 [target]."""
        logits = self.logits()
        chosen = torch.from_numpy(self.target).to(logits.device)
        tokens = self.inputs["input_ids"].to(logits.device)
        # Every position has a label, the next token or none: to take the logits of the targets alone
        # would copy nearly all of them.
        labels = torch.full_like(tokens, NO_LABEL)
        labels[:, :-1] = tokens[:, 1:].masked_fill(~chosen, NO_LABEL)
        nats = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL, reduction="none"
        )
        return nats.view(tokens.shape)[:, :-1][chosen].double().cpu().numpy()


def passes(
    models: Sequence[PreTrainedModel],
    texts: Iterable[Sequence[Text]],
    across_documents: bool,
    sequences: int,
    batch: int,
    name: str,
    groups: int = 0,
) -> Iterator[list[Pass]]:
    """Passes of models side by side over the first `sequences`, `batch` at a time: one of each model.

    `texts` holds for every token shard in turn the text as each model reads it. `name` says on the
    progress bar what is done. No shard is read that is not needed. Where the sequences hold fewer than
    `groups` groups of documents, those of the last shard are instead the ones that hold most.
    """
    progress = Progress(sequences, name, "sequences")
    left, seen = sequences, set[int]()
    for side_by_side in texts:
        count = min(left, len(side_by_side[0].tokens.tokens))
        group = side_by_side[0].tokens.group
        chosen = _chosen(group, count, seen, groups) if groups else None
        seen.update(np.unique(group[:count]).tolist())
        seen.discard(PADDING)
        for first in range(0, count, batch):
            stretch = slice(first, min(first + batch, count))
            part = stretch if chosen is None else chosen[stretch]
            yield [
                Pass(model, text, part, across_documents, progress)
                for model, text in zip(models, side_by_side, strict=True)
            ]
            progress.advance(min(batch, count - first))
        left -= count
        if not left:
            break
    progress.close()


def _chosen(group: np.ndarray, count: int, seen: set[int], least: int) -> np.ndarray | None:
    """Numbers of `count` sequences, rising, that hold many groups, of group [sequence, position].

    None where the first ones, with the groups `seen` before, hold at least `least` of them, or are all
    that there are. One by one, that which has most groups that none has yet; the earlier of equals.
    """
    held = [set(np.unique(row[row != PADDING]).tolist()) for row in group]
    if count == len(held) or len(seen.union(*held[:count])) >= least:
        return None
    left, chosen = list(range(len(held))), list[int]()
    while len(chosen) < count:
        best = max(left, key=lambda number: len(held[number] - seen))
        left.remove(best)
        seen = seen | held[best]
        chosen.append(best)
    return np.array(sorted(chosen))


def warn_of_few(name: str, units: Units, domains: Sequence[str]) -> None:
    """Say in the log of which domains, or of all together, too few groups were read to be resampled.

    `units` [n] are those of what was read, by numbers of `domains`, in any order, repeats counted once.
    """
    counts = units.counts(domains)
    few = ", ".join(f"{of} {count}" for of, count in counts.items() if count < LEAST_GROUPS)
    if few:
        log.warning(
            "%s: no interval over fewer than %d groups of documents (%s); raise reruns.sequences",
            name, LEAST_GROUPS, few,
        )  # fmt: skip


# --- over text whose rows are stored ------------------------------------------------------------

SAME = 0.1  # relative distance of rows run again from those stored: another machine, float16


@dataclass(frozen=True)
class Rerun:
    """The model of a source, and the text on which it is run again."""

    model: PreTrainedModel
    tokens: TokenShard  # one of those whose activations are stored
    across_documents: bool
    sequences: int  # so many, from its first
    batch: int  # sequences a pass


class StoredPass(NamedTuple):
    """A pass, and the rows of its sequences as they are stored."""

    run: Pass
    place: Tensor  # [row], where a row lies in the flattened sequences
    sources: list[Tensor]  # [row, d_s] each


def stored_passes(data: AlignedRows, source: int, again: Rerun, name: str) -> Iterator[StoredPass]:
    """The passes of a rerun that have rows. Holds the stored rows of all its sequences."""
    tokens = again.tokens
    digests = [shard.facts.get("token_shard") for shard in data.sources[source]]
    if tokens.digest not in digests:
        raise UserError(f"source {source}: none of its shards was made from these tokens")
    number = digests.index(tokens.digest)
    count = min(again.sequences, len(tokens.tokens))

    def inside(chunk: Chunk) -> np.ndarray:
        sequences = data.column_of(chunk, "sequence", source)
        return (sequences < tokens.first + count) & (chunk.shard == number)

    keep = data.select(inside)
    parts = list(data.selected(keep, 4096))
    if not parts:
        raise UserError(f"no row is stored of the first {count} sequences of these tokens")
    sources = [torch.cat(part) for part in zip(*parts, strict=True)]
    where = {
        column: np.concatenate(
            [data.column_of(c, column, source)[keep.of(c.number)] for c in data.chunks]
        ).astype(np.int64)
        for column in ("sequence", "position")
    }
    sequence = where["sequence"] - tokens.first
    for (run,) in passes(
        [again.model], [[Text(tokens)]], again.across_documents, count, again.batch, name
    ):
        assert isinstance(run.part, slice)  # no groups were asked for
        start, stop = run.part.start, run.part.stop
        mine = np.flatnonzero((sequence >= start) & (sequence < stop))
        place = (sequence[mine] - start) * tokens.tokens.shape[1] + where["position"][mine]
        rows = torch.from_numpy(mine)
        if len(mine):
            yield StoredPass(run, torch.from_numpy(place), [values[rows] for values in sources])


class Runner:
    """Runs a stored pass and gives the source's rows anew, and the routing of one layer."""

    def __init__(self, capture: Capture, point: Point, layer: int, device: torch.device) -> None:
        self.capture, self.point, self.layer, self.device = capture, point, layer, device

    def rows(self, stored: StoredPass) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [row, d], and experts and gates [position, k] of all positions, as one sequence."""
        captured = self.capture(**stored.run.inputs)
        values = captured.points[self.point].flatten(0, 1)
        rows = values[stored.place.to(values.device)].to(self.device).double()
        used = captured.routing[self.layer]
        return rows, used.experts.flatten(0, 1).cpu(), used.gates.flatten(0, 1).cpu()

    def silenced(self, stored: StoredPass, off: Tensor) -> Tensor:
        """Rows [row, d] with the gates at `off` [position, k] set to 0."""
        with routing(stored.run.model, silence(off), [self.layer]):
            return self.rows(stored)[0]


def refuse_another_model(rows: Tensor, stored: Tensor, source: int) -> None:
    """Raise UserError where rows [row, d] run again are not those that are stored."""
    stored = stored.to(rows)
    if float((rows - stored).norm()) > SAME * float(stored.norm()):
        raise UserError(
            f"source {source}: the model run again does not give the rows that are stored; take the "
            "model, and the setting of attention across documents, that they were made with"
        )
