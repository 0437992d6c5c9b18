"""What an expert says: early decoding of the heaviest experts' outputs (MoE Lens, 2603.05806).

H_j is the sum of the j heaviest experts' outputs times their gates; H_k is what all routed experts of a
layer add. It is shown to the final norm and the unembedding, alone or with what the stream already held, and
compared with H_k, with what the layer says and with what the model says. A stream that is much larger than
what experts add makes any two readings alike, so the cosine *without* it is the one to quote. Beside the
heaviest stand controls: the second, one of the chosen and one of those that were not chosen, at random.

    k  experts that a token uses      d  d_model
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from moediff.analysis.reruns import Pass
from moediff.core.errors import UserError
from moediff.core.terms import ALL
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point
from moediff.hooks.slots import Slots, slots
from moediff.models import unembedding
from moediff.models.families import blocks, routers

# Which part of the stream stands beside the experts' output.
ALONE, STREAM, BLOCK = STREAMS = ("none", "stream", "stream and shared")
ROUTED, RENORMALISED = WEIGHTS = ("routed", "renormalised")
# Whose output is read: the j heaviest, or in their place one other.
TOP, SECOND, CHOSEN, UNCHOSEN, SHARED, NOTHING = TERMS = (
    "heaviest", "second", "random chosen", "random unchosen", "shared", "nothing",
)  # fmt: skip
_SUMS = ("cosine", "cosine_layer", "kl_layer", "kl_model", "agrees_layer", "agrees_model")


class Term(NamedTuple):
    """One reading of a layer: whose output, how many experts, how they are weighed."""

    name: str
    experts: int
    weights: str
    output: Tensor  # [row, d]


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Of rows [row, d] with each other [row]; 0 where either is 0: nothing has no direction."""
    one, other = one.double(), other.double()
    norms = one.norm(dim=-1) * other.norm(dim=-1)
    dots = (one * other).sum(-1)
    return torch.where(norms > 0, dots / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)


def terms(found: Slots, rows: Tensor, random: torch.Generator) -> Iterator[Term]:
    """The readings of a layer at some tokens `rows` [row]; that of all k experts as routed comes first."""
    parts, gates = found.parts[rows], found.gates[rows].double()  # [row, k, d], [row, k]
    count, k = gates.shape
    total = gates.sum(1)
    for j in range(k, 0, -1):
        held = parts[:, :j].sum(1)
        yield Term(TOP, j, ROUTED, held)
        if j < k:
            kept = gates[:, :j].sum(1)
            factor = torch.where(kept > 0, total / kept, 1.0).to(held.dtype)
            yield Term(TOP, j, RENORMALISED, held * factor[:, None])
    if k > 1:
        yield Term(SECOND, 1, ROUTED, parts[:, 1])
    some = torch.randint(k, (count,), generator=random).to(parts.device)
    yield Term(CHOSEN, 1, ROUTED, parts[torch.arange(count, device=parts.device), some])
    experts = found.layer.logits.shape[1]
    if k < experts:
        draw = torch.rand(len(found.gates), experts, generator=random).to(found.experts.device)
        other = draw.scatter(1, found.experts, -1.0).argmax(1)  # [token]
        yield Term(UNCHOSEN, 1, ROUTED, found.alone(other, found.gates[:, 0])[rows])
    shared = found.shared[rows]
    if bool(shared.any()):
        yield Term(SHARED, 0, ROUTED, shared)
    yield Term(NOTHING, 0, ROUTED, torch.zeros_like(shared))


class Layered(NamedTuple):
    """What a pass found of all MoE layers; streams are [batch, position, d_model], by layer."""

    slots: Mapping[int, Slots]
    middle: dict[int, Tensor]  # the stream before the experts
    after: dict[int, Tensor]  # what leaves the layer
    last: Tensor  # what leaves the last block


def read_layers(run: Pass) -> Layered:
    """A pass of an MoE, read at every layer with experts. Raises UserError without one, and as `slots`."""
    model = run.model
    layers = list(routers(model))
    if not layers:
        raise UserError(f"{type(model).__name__}: no layer has experts")
    last = Point("resid_post", len(blocks(model)) - 1)
    points = [Point(hook, layer) for layer in layers for hook in ("resid_mid", "resid_post")]
    every = list(dict.fromkeys([*points, last]))
    with slots(model, layers) as found, Capture(model, every) as capture:
        passed = capture(**run.inputs).points
    middle, after = (
        {layer: passed[Point(hook, layer)] for layer in layers}
        for hook in ("resid_mid", "resid_post")
    )
    return Layered(found, middle, after, passed[last])


def proved(run: Pass, last: Tensor) -> Callable[[Tensor], Tensor]:
    """The unembedding of a pass's model, held against the model's own logits. Raises UserError."""
    unembed = unembedding.unembedding(run.model)
    unembedding.prove(run.model, unembed, last, **run.inputs)
    return unembed


def rows_of(stream: Tensor, rows: Tensor) -> Tensor:
    """The stream [batch, position, d_model] at places of its flattened positions: [row, d_model]."""
    return stream.flatten(0, 1)[rows.to(stream.device)]


@torch.no_grad()
def expert_lens(
    runs: Iterable[Pass],
    domains: Sequence[str],
    positions: int | None,
    seed: int = 0,
) -> pl.DataFrame:
    """One row for each layer, domain (and all text), reading, stream and weights: means over tokens.

    `runs` are passes of one MoE. Tokens are those that predict a target, or
    `positions` of each sequence at random. Columns: `layer`, `domain`, `term` (of TERMS), `experts` (how
    many), `stream` (of STREAMS), `weights`, `tokens`; `cosine` with H_k read with the same stream;
    `cosine_layer` with what leaves the layer; `kl_layer`, `kl_model`: nats from the layer's and the model's
    distribution to that of the reading; `agrees_layer`, `agrees_model`: the share of tokens with the same
    first token. Raises UserError as `slots` and `unembedding` do.
    """
    random = torch.Generator().manual_seed(seed)
    sums: dict[tuple[Any, ...], np.ndarray] = {}
    unembed = None
    for run in runs:
        layered = read_layers(run)
        if unembed is None:
            unembed = proved(run, layered.last)
        rows, domain = _some(run, positions, random)
        if not len(rows):
            continue
        said = _wanted(unembed(rows_of(layered.last, rows)))
        for layer, here in layered.slots.items():
            middle, after = (rows_of(part[layer], rows) for part in (layered.middle, layered.after))
            readings = _readings(
                here, rows.to(here.parts.device), middle, after, said, unembed, random
            )
            for key, measured in readings:
                _add(sums, (layer, *key), measured, domain, domains)
        run.says(f"{len(layered.slots)} layers read")
    return _table(sums)


def _some(run: Pass, positions: int | None, random: torch.Generator) -> tuple[Tensor, np.ndarray]:
    """Places of the tokens that are read, in the flattened sequences, and their domains."""
    target = np.zeros_like(run.starts)
    target[:, :-1] = run.target  # at each position the next token is predicted
    if positions is not None:
        draw = torch.rand(target.shape, generator=random).numpy() * target
        order = np.argsort(-draw, axis=1, kind="stable")[:, :positions]
        chosen = np.zeros_like(target)
        np.put_along_axis(chosen, order, True, axis=1)
        target &= chosen
    places = np.flatnonzero(target)
    return torch.from_numpy(places), run.tokens.domain[run.part].ravel()[places]


def _readings(
    found: Slots,
    rows: Tensor,
    middle: Tensor,
    after: Tensor,
    model: _Wanted,
    unembed: Callable[[Tensor], Tensor],
    random: torch.Generator,
) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """Each reading of a layer: its name, and what `_SUMS` lists [row, 6]."""
    shared = found.shared[rows]
    beside = {ALONE: torch.zeros_like(middle), STREAM: middle}
    if bool(shared.any()):
        beside[BLOCK] = middle + shared
    layer, model = _wanted(unembed(after)), model.to(after.device)
    whole: Tensor | None = None
    for term in terms(found, rows, random):
        whole = term.output if whole is None else whole
        for stream, other in beside.items():
            if stream == BLOCK and term.name == SHARED:
                continue
            read = other + term.output
            mine = _said(unembed(read))
            yield (
                (term.name, term.experts, stream, term.weights),
                torch.stack(
                    [
                        cosine(read, other + whole),
                        cosine(read, after),
                        _kl(layer, mine),
                        _kl(model, mine),
                        (mine.first == layer.first).double(),
                        (mine.first == model.first).double(),
                    ],
                    1,
                ).cpu(),
            )


class _Said(NamedTuple):
    """What is said after each token."""

    logits: Tensor  # [row, vocabulary]
    total: Tensor  # [row], log of the sum of their exponentials
    first: Tensor  # [row], the likeliest token


class _Wanted(NamedTuple):
    """What readings are held against."""

    share: Tensor  # [row, vocabulary]
    entropy: Tensor  # [row], nats
    first: Tensor  # [row]

    def to(self, device: torch.device) -> _Wanted:
        return _Wanted(*(part.to(device) for part in self))


def _said(logits: Tensor) -> _Said:
    return _Said(logits, logits.logsumexp(-1), logits.argmax(-1))


def _wanted(logits: Tensor) -> _Wanted:
    said = _said(logits)
    share = (logits - said.total[:, None]).exp()
    return _Wanted(share, _cross_entropy(share, said), said.first)


def _cross_entropy(share: Tensor, found: _Said) -> Tensor:
    """Of shares of tokens in what is said, nats [row]; no table [row, vocabulary] is made for it."""
    return found.total.double() - torch.einsum("rv,rv->r", share, found.logits).double()


def _kl(wanted: _Wanted, found: _Said) -> Tensor:
    """KL(wanted || found) in nats [row]; 0 to the bit where the logits are the same."""
    return _cross_entropy(wanted.share, found) - wanted.entropy


def _add(
    sums: dict[tuple[Any, ...], np.ndarray],
    key: tuple[Any, ...],
    measured: Tensor,
    domain: np.ndarray,
    names: Sequence[str],
) -> None:
    values = np.concatenate([np.ones((len(measured), 1)), measured.numpy()], 1)
    parts = [(ALL, np.ones(len(domain), bool))]
    parts += [(names[number], domain == number) for number in np.unique(domain).tolist()]
    for name, here in parts:
        total = sums.setdefault((*key, name), np.zeros(values.shape[1]))
        total += values[here].sum(0)


def _table(sums: dict[tuple[Any, ...], np.ndarray]) -> pl.DataFrame:
    names = ("layer", "term", "experts", "stream", "weights", "domain")
    rows = [
        dict(zip(names, key, strict=True))
        | {"tokens": int(total[0])}
        | dict(zip(_SUMS, (total[1:] / total[0]).tolist(), strict=True))
        for key, total in sums.items()
    ]
    return pl.DataFrame(rows)
