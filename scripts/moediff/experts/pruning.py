"""Experts left out for good: which, what that costs, and the smaller model as a plain checkpoint.

    REAP of expert j = mean over tokens routed to j of g_j |f_j|                      (2510.13999)

with g_j its gate and f_j its output; an expert that no token uses has 0. Beside it stand scores that anyone
would try: how often an expert is used, its share of all gates, the size of its output alone, and chance. In
each layer the experts of the lowest score go, as many in each; at least those stay that a token uses.

    E  experts      k  experts that a token uses
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moediff.analysis.reruns import Pass
from moediff.core.errors import UserError
from moediff.core.terms import ALL
from moediff.experts.costs import Setting, costs
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point
from moediff.hooks.routing import mask, routing
from moediff.hooks.slots import Slots, slots
from moediff.models.families import (
    EXPERT_COUNTS,
    blocks,
    chooses_by_groups,
    expert_count,
    is_expert_parameter,
    known_family,
    routers,
    top_k,
)

_TINY = 1e-30


class Usage(NamedTuple):
    """How a layer's experts were used by some text; each [E]."""

    tokens: np.ndarray  # that use it
    gates: np.ndarray  # sum over them of its gate
    weighed: np.ndarray  # sum of its gate times the norm of its output
    norms: np.ndarray  # sum of the norm of its output


def measured(
    runs: Iterable[Pass], renormalise: bool, domains: Sequence[str]
) -> dict[str, dict[int, Usage]]:
    """The usage of every MoE layer by all positions that are predicted, and by those of each domain.

    By domain (ALL first), then layer. With `renormalise` a token's gates are divided by their sum first, as
    the authors of REAP do since March 2026. Where a gate scales what goes into an expert (Llama 4), the norm
    is that of what comes out over the gate. One pass of the model and about one call more of each MoE layer.
    """
    found: dict[str, dict[int, Usage]] = {}
    for run in runs:
        model = run.model
        every, count = list(routers(model)), expert_count(model)
        if not every or count is None:
            raise UserError(f"{type(model).__name__}: no layer has experts")
        last = Point("resid_post", len(blocks(model)) - 1)
        with slots(model, every) as parts, Capture(model, [last]) as capture:
            capture(**run.inputs)
        target = np.zeros_like(run.starts)
        target[:, :-1] = run.target
        places = np.flatnonzero(target)
        of = run.tokens.domain[run.part].ravel()[places]
        texts = {ALL: np.ones(len(of), bool)}
        texts |= {domains[number]: of == number for number in np.unique(of).tolist()}
        for layer in every:
            columns = _columns(parts[layer], torch.from_numpy(places), renormalise)
            for name, here in texts.items():
                experts = columns[0][here].ravel()
                sums = (np.bincount(experts, part[here].ravel(), count) for part in columns[1:])
                by_layer = found.setdefault(name, {})
                before = by_layer.get(layer, Usage(*(np.zeros(count) for _ in Usage._fields)))
                by_layer[layer] = Usage(*(old + new for old, new in zip(before, sums, strict=True)))
    return found


def usage_table(usage: Mapping[str, Mapping[int, Usage]]) -> pl.DataFrame:
    """`measured` as a table: a row for each text (`chosen_on`), `layer` and `expert`, and the sums of
    `Usage`."""
    parts = [
        pl.DataFrame({"expert": np.arange(len(used.tokens)), **used._asdict()}).select(
            pl.lit(text).alias("chosen_on"), pl.lit(layer).alias("layer"), pl.all()
        )
        for text, by_layer in usage.items()
        for layer, used in by_layer.items()
    ]
    return pl.concat(parts)


def usage_of(table: pl.DataFrame) -> dict[str, dict[int, Usage]]:
    """What `usage_table` was made of."""
    found: dict[str, dict[int, Usage]] = {}
    for (text, layer), part in table.group_by("chosen_on", "layer", maintain_order=True):
        columns = (part.sort("expert")[name].to_numpy() for name in Usage._fields)
        found.setdefault(str(text), {})[int(str(layer))] = Usage(*columns)
    return found


def _columns(found: Slots, rows: Tensor, renormalise: bool) -> list[np.ndarray]:
    """Experts of tokens `rows`, and what each slot adds to the sums of `Usage`; all [row, k]."""
    own = rows.to(found.parts.device)
    gates = found.gates[own].double()
    size = found.parts[own].double().norm(dim=2)  # of gate times output
    norms = torch.where(gates > 0, size / gates.clamp_min(_TINY), 0.0)
    if renormalise:
        gates = gates / gates.sum(1, keepdim=True).clamp_min(_TINY)
    values = (found.experts[own], torch.ones_like(gates), gates, gates * norms, norms)
    return [part.cpu().numpy() for part in values]


def _a_token(sums: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return np.divide(sums, tokens, out=np.zeros_like(sums), where=tokens > 0)


def reap(used: Usage, random: np.random.Generator) -> np.ndarray:
    """Mean over routed tokens of gate times norm."""
    return _a_token(used.weighed, used.tokens)


def frequency(used: Usage, random: np.random.Generator) -> np.ndarray:
    """How many tokens use it."""
    return used.tokens


def gate_share(used: Usage, random: np.random.Generator) -> np.ndarray:
    """The sum of its gates."""
    return used.gates


def norm(used: Usage, random: np.random.Generator) -> np.ndarray:
    """Mean over routed tokens of the norm of its output."""
    return _a_token(used.norms, used.tokens)


def chance(used: Usage, random: np.random.Generator) -> np.ndarray:
    """Nothing of it."""
    return random.random(len(used.tokens))


Score = Callable[[Usage, np.random.Generator], np.ndarray]
SCORES: dict[str, Score] = {
    "reap": reap, "frequency": frequency, "gate_share": gate_share, "norm": norm, "random": chance,
}  # fmt: skip


def left_out(
    usage: Mapping[int, Usage], score: str, keep: float, least: int, protect: int = 0, seed: int = 0
) -> dict[int, list[int]]:
    """The experts of each layer that go, rising: all but a share `keep`, of which at least `least` stay.

    The `protect` experts of the largest mean norm stay whatever their score. Equal scores: the higher number
    goes first.
    """
    found = {}
    for layer, used in usage.items():
        count = len(used.tokens)
        staying = max(round(keep * count), least, min(protect, count))
        values = SCORES[score](used, np.random.default_rng([seed, layer])).copy()
        safe = np.argsort(-norm(used, np.random.default_rng(0)), kind="stable")[:protect]
        values[safe] = np.inf
        order = np.argsort(-values, kind="stable")
        found[layer] = sorted(order[staying:].tolist())
    return found


@contextmanager
def without(model: PreTrainedModel, gone: Mapping[int, Collection[int]]) -> Iterator[None]:
    """Inside it every pass of the model routes as if the experts of `gone`, by layer, were not there."""
    with ExitStack() as stack:
        for layer, experts in gone.items():
            if experts:
                stack.enter_context(routing(model, mask(experts), [layer]))
        yield


def pruned(model: PreTrainedModel, gone: Mapping[int, Collection[int]]) -> PreTrainedModel:
    """A model of the same class without these experts: a plain model of transformers, on the CPU.

    As many must go in every MoE layer. Rows of the router, and of a bias that chooses, go with their
    experts. Raises UserError where layers differ in number, fewer are left than a token uses, or experts
    stand in groups of which some are chosen first (DeepSeek-V3): what a group is would change.
    """
    name, count, used = type(model).__name__, expert_count(model), top_k(model)
    every = routers(model)
    known_family(model)
    sizes = {len(set(gone.get(layer, ()))) for layer in every}
    if count is None or used is None or len(sizes) != 1:
        raise UserError(f"{name}: as many experts must go in every layer, not {sorted(sizes)}")
    left = count - sizes.pop()
    if left < used:
        raise UserError(f"{name}: {left} experts are left and a token uses {used}")
    config = deepcopy(model.config)
    text = config.get_text_config()
    if chooses_by_groups(model) and left < count:
        raise UserError(f"{name}: its experts are chosen by groups, which pruning would change")
    for key in EXPERT_COUNTS:
        if getattr(text, key, None):
            setattr(text, key, left)
    names = {id(module): place for place, module in model.named_modules()}
    stack = blocks(model)
    stays = {
        f"{names[id(stack[layer])]}.": torch.tensor(
            sorted(set(range(count)) - set(gone.get(layer, ()))), dtype=torch.int64
        )
        for layer in every
    }
    routed = {f"{names[id(router)]}." for router in every.values()}
    tensors = {}
    for key, value in model.state_dict().items():
        value = value.detach().cpu()
        of_router = any(key.startswith(place) for place in routed)
        block = next((place for place in stays if key.startswith(place)), None)
        if block and (of_router or is_expert_parameter(key)) and value.shape[:1] == (count,):
            value = value[stays[block]]
        tensors[key] = value.clone()
    smaller: PreTrainedModel = type(model)(config)
    nn.Module.to(smaller, model.dtype)
    smaller.load_state_dict(tensors, strict=True)
    return smaller.eval()


class Choice(NamedTuple):
    """What is tried of pruning: every score with every share that is kept, chosen on every text."""

    scores: Sequence[str]
    keep: Sequence[float]
    protect: int = 0


def prune_costs(
    usage: Mapping[str, Mapping[int, Usage]],
    choice: Choice,
    runs: Iterable[Pass],
    domains: Sequence[str],
) -> pl.DataFrame:
    """What it costs an MoE to do without experts that were chosen by its `usage` of some texts.

    Columns: `chosen_on` (ALL or a domain), `score`, `keep`, `kept` (experts of a layer), `parameters` of the
    smaller model; then those of `costs`, of every domain: of the one it was chosen on and of the others. The
    first rows are of the model as it is. A pass for each different choice; settings that keep all experts
    are left out.
    """

    def settings(model: PreTrainedModel) -> list[Setting]:
        count, used = expert_count(model) or 0, top_k(model) or 1
        found = []
        for (text, by_layer), score, keep in product(usage.items(), choice.scores, choice.keep):
            gone = left_out(by_layer, score, keep, used, choice.protect)
            sizes = [len(experts) for experts in gone.values()]
            if any(sizes):
                facts = _facts(text, score, keep, count - sizes[0], parameters(model, sizes[0]))
                same = tuple(map(tuple, gone.values()))
                found.append(Setting(facts, partial(without, gone=gone), same=same))
        whole[:] = [count, parameters(model, 0)]
        return found

    whole: list[int] = []
    table = costs(runs, settings, _facts(None, None, 1.0, None, None), domains)
    return table.with_columns(
        pl.col(name).fill_null(value)
        for name, value in zip(("kept", "parameters"), whole, strict=True)
    )


def _facts(
    text: str | None, score: str | None, keep: float, kept: int | None, left: int | None
) -> dict[str, Any]:
    return {"chosen_on": text, "score": score, "keep": keep, "kept": kept, "parameters": left}


def parameters(model: PreTrainedModel, gone: int) -> int:
    """Parameters of a model without so many experts of each MoE layer."""
    count, whole = expert_count(model), sum(p.numel() for p in model.parameters())
    held = sum(p.numel() for name, p in model.named_parameters() if is_expert_parameter(name))
    routed = sum(p.numel() for router in routers(model).values() for p in router.parameters())
    return whole - (held + routed) * gone // count if count else whole


def card(
    name: str, chosen: Mapping[str, Any], gone: Mapping[int, Sequence[int]], table: pl.DataFrame
) -> str:
    """Text of the model card of what is left of model `name` by the `score` and `keep` of `chosen`.

    `table` as `prune_costs` gives it, which says what it costs in each domain.
    """
    score, keep = chosen["score"], float(chosen["keep"])
    mine = table.filter(
        (pl.col("chosen_on") == ALL) & (pl.col("score") == score) & (pl.col("keep") == keep)
    )
    whole = table.filter(pl.col("score").is_null())
    lines = [
        "---", "library_name: transformers", "tags: [mixture-of-experts, pruned]", "---",
        f"# {name} without some of its experts", "",
        f"Of each MoE layer the experts of the lowest score `{score}` are gone, chosen on all text by "
        "moediff; nothing was trained afterwards.", "",
        "| layer | experts that are gone |", "|---|---|",
        *(f"| {layer} | {', '.join(map(str, experts)) or 'none'} |" for layer, experts in gone.items()),
    ]  # fmt: skip
    if mine.height:
        lines += [
            "", f"{mine['parameters'][0]:,} of {whole['parameters'][0]:,} parameters are left.", "",
            "| text | tokens | cross-entropy | of the whole model | ratio of perplexities |",
            "|---|---|---|---|---|",
            *(f"| {row['domain']} | {row['tokens']:,} | {row['cross_entropy']:.4f} | "
              f"{row['cross_entropy'] - row['cost']:.4f} | {row['ratio']:.4f} |"
              for row in mine.iter_rows(named=True)),
        ]  # fmt: skip
    lines += [
        "", "```python", "from transformers import AutoModelForCausalLM", "",
        'model = AutoModelForCausalLM.from_pretrained("this folder, or its Hub id")', "```", "",
    ]  # fmt: skip
    return "\n".join(lines)
