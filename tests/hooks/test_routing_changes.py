"""Changed routing is what each family makes of it, by its rule written out again."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from families import tiny
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point
from moediff.hooks.routing import force, keep, mask, rank, routing, scale, silence
from moediff.models.families import FAMILIES as TABLE
from moediff.models.families import blocks, read_routed, routers, top_k
from rerouted import EVERY, LAYER, inputs_of, logits, routed, table


def varied(family: str):
    """A tiny model in which the bias does not choose alone: tokens use different experts."""
    model = tiny(family)
    for router in routers(model).values():
        if TABLE[model.config.model_type].choice_bias:
            router.weight.mul_(10)
    return model


@contextmanager
def met(model, layer: int = LAYER):
    """Of the passes inside: what enters a layer's feed-forward, its router's logits, and what leaves it."""
    seen: dict[str, Tensor] = {}
    feed_forward, router = feed_forward_of(model, layer), routers(model)[layer]

    def through(_: nn.Module, given: tuple, out) -> None:
        seen["entering"] = given[0].reshape(-1, given[0].shape[-1])
        out = out[0] if isinstance(out, tuple) else out
        seen["leaving"] = out.reshape(-1, out.shape[-1])

    handles = [
        feed_forward.register_forward_hook(through),
        router.register_forward_hook(
            lambda _, __, out: seen.update(logits=read_routed(model, out).logits)
        ),
    ]
    yield seen
    for handle in handles:
        handle.remove()


def feed_forward_of(model, layer: int) -> nn.Module:
    block = blocks(model)[layer]
    places = ("mlp", "feed_forward", "block_sparse_moe")
    return next(getattr(block, place) for place in places if hasattr(block, place))


# --- mask ---------------------------------------------------------------------------------------


def by_rule(model, z: Tensor, gone: Collection[int]) -> Tensor:
    """Gates [token, expert] of logits z without some experts, by the family's rule written out again.

    Without groups the experts are cut out as if they had never been.
    """
    config = model.config.get_text_config()
    kind, factor = config.model_type, getattr(config, "routed_scaling_factor", 1.0)
    left = [expert for expert in range(8) if expert not in gone]
    found = torch.zeros(len(z), 8)
    for token, row in enumerate(z.float()):
        one_by_one = kind in ("deepseek_v3", "glm4_moe", "llama4_text")
        scores = row[left].sigmoid() if one_by_one else row[left].softmax(0)
        score = dict(zip(left, scores.tolist(), strict=True))
        chosen = chosen_by_hand(model, score)  # the best first
        gates = {expert: score[expert] for expert in chosen}
        if kind == "phimoe":
            gates = mixed_by_hand(row, left, chosen, config.router_jitter_noise)
        elif TABLE[kind].renormalised(config):
            whole = sum(gates.values())
            gates = {expert: gate / whole for expert, gate in gates.items()}
        for expert, gate in gates.items():
            found[token, expert] = gate * factor
    return found


def chosen_by_hand(model, score: dict[int, float]) -> list[int]:
    """The k experts that a token uses of those with a score, by bias and groups."""
    config = model.config.get_text_config()
    choice, low, of_group = score, 0.0, 1
    if config.model_type in ("deepseek_v3", "glm4_moe"):
        bias = routers(model)[LAYER].e_score_correction_bias.tolist()
        choice = {expert: value + bias[expert] for expert, value in score.items()}
        low, of_group = min(bias) - 1, 2  # what one that is gone counts for in its group
    grouped = of_group == 2 or getattr(config, "topk_method", "") == "group_limited_greedy"
    size = 8 // config.n_group if grouped else 8
    groups = [range(first, first + size) for first in range(0, 8, size)]

    def worth(group: range) -> float:
        return sum(sorted(choice.get(expert, low) for expert in group)[-of_group:])

    best = sorted(groups, key=worth)[-config.topk_group :] if grouped else groups
    allowed = [expert for group in best for expert in group if expert in choice]
    return sorted(allowed, key=choice.get)[: -config.num_experts_per_tok - 1 : -1]


def mixed_by_hand(row: Tensor, left: list[int], chosen: list[int], jitter: float) -> dict:
    """SparseMixer: the share of the best among those near it, and of the second without the best."""
    gates = {}
    for number, expert in enumerate(chosen):
        rest, best = [e for e in left if e not in chosen[:number]], float(row[expert])
        sizes = {e: max(abs(float(row[e])), best) for e in rest}
        near = [e for e in rest if (best - float(row[e])) / sizes[e] <= 2 * jitter]
        gates[expert] = float((row[expert] - row[near].logsumexp(0)).exp())
    return gates


@pytest.mark.parametrize("gone", [(), (3,), (0, 5), (6, 7), (0, 2, 4)], ids=str)
@pytest.mark.parametrize("family", EVERY)
def test_masked_experts_are_gone_and_the_rest_is_weighed_as_the_family_does(
    family: str, gone: tuple[int, ...]
) -> None:
    model = varied(family)
    clean = table(routed(model))
    with met(model) as seen:
        logits(model)
    with routing(model, mask(gone), [LAYER]):
        used = routed(model)
        after = logits(model)
    found = table(used)
    torch.testing.assert_close(found, by_rule(model, seen["logits"], gone), rtol=1e-5, atol=1e-6)
    assert not found[:, list(gone)].any()
    config = model.config.get_text_config()
    total = TABLE[config.model_type].gates_sum(config)
    if total is not None:
        torch.testing.assert_close(used.gates.sum(-1), torch.full((2, 12), total))
    if gone:
        touched = clean[:, list(gone)].any(1)
        assert len(gone) < 3 or touched.any()  # a single one may be used by none of the tokens
        assert not touched.all()
        assert not (touched.any() and torch.allclose(after, logits(model), atol=1e-4))
        if "groups" not in family and "v3" not in family:  # there one more may be left out
            assert (found > 0).sum(1).equal((clean > 0).sum(1))
    for number, router in routers(model).items():
        bias = getattr(router, "e_score_correction_bias", None)
        if bias is not None:  # put back as it was
            assert bias is dict(router.named_buffers())["e_score_correction_bias"]
            assert torch.equal(bias, routers(varied(family))[number].e_score_correction_bias)


@pytest.mark.parametrize("family", ["deepseek-v3", "glm4-moe"])
def test_a_masked_expert_is_not_chosen_by_its_bias(family: str) -> None:
    """With the logit alone its bias would still win: a score of 0 and 9 against 1 and 1."""
    model = tiny(family)
    routers(model)[LAYER].e_score_correction_bias[2] = 9.0
    assert (routed(model).experts == 2).any(-1).all()
    with routing(model, mask([2])):
        assert not (table(routed(model))[:, 2] > 0).any()
        assert not (routed(model).experts == 2).any()


def test_masks_hold_whatever_else_is_changed_and_add_up() -> None:
    for family in ("qwen3-moe", "deepseek-v3", "llama4"):
        model, found = tiny(family), []
        for outer, inner in ((mask([1, 4]), keep(1)), (keep(1), mask([1, 4]))):
            with routing(model, outer), routing(model, inner):
                found.append(table(routed(model)))
        assert torch.equal(*found)
        assert ((found[0] > 0).sum(1) == 1).all()
        assert not found[0][:, [1, 4]].any()
        with routing(model, mask([1])), routing(model, mask([4])):
            both = table(routed(model))
        with routing(model, mask([1, 4])):
            torch.testing.assert_close(both, table(routed(model)))


# --- keep, rank, silence, force, scale ----------------------------------------------------------


def layer_by_hand(model, entering: Tensor, gates: Tensor) -> Tensor:
    """What a feed-forward gives for rows [token, d] with gates [token, expert], from its weights."""
    part = feed_forward_of(model, LAYER)
    experts = part.experts
    found = torch.zeros_like(entering)
    for number in range(8):
        gate = gates[:, number : number + 1]
        if hasattr(part, "shared_expert"):  # Llama 4: weights the other way round, gates before
            both = (gate * entering) @ experts.gate_up_proj[number]
            down, gate = experts.down_proj[number], 1.0
        else:
            both, down = entering @ experts.gate_up_proj[number].T, experts.down_proj[number].T
        one, two = both.chunk(2, -1)
        found += gate * ((F.silu(one) * two) @ down)
    for shared in ("shared_expert", "shared_experts"):
        if hasattr(part, shared):
            found += getattr(part, shared)(entering)
    return found


# One that renormalises, one that does not, one with sigmoid, bias and groups, and one of another form.
BY_HAND = ["qwen3-moe", "qwen3-moe, raw", "deepseek-v3", "llama4"]
OFF = torch.rand(24, 8, generator=torch.Generator().manual_seed(2)) < 0.3  # [token, slot]


@pytest.mark.parametrize("family", BY_HAND)
def test_a_changed_layer_gives_what_is_computed_by_hand(family: str) -> None:
    model = varied(family)
    used, k = routed(model), top_k(model)
    clean = table(used)
    experts, gates = used.experts.flatten(0, 1), used.gates.flatten(0, 1)
    with met(model) as seen:
        logits(model)
    entering, z = seen["entering"], seen["logits"].float()
    sigmoid, renormalised = family in ("deepseek-v3", "llama4"), family in BY_HAND[::2]
    scores = z.sigmoid() if sigmoid else z.softmax(1)
    factor = 2.5 if family == "deepseek-v3" else 1.0
    by_gate = gates.argsort(1, descending=True)
    order = torch.cat([experts.gather(1, by_gate), unused(z, experts)], 1)  # [token, expert]

    def only(chosen: Tensor, weights: Tensor) -> Tensor:
        return torch.zeros(24, 8).scatter(1, chosen, weights)

    def weighed(chosen: Tensor) -> Tensor:
        own = scores.gather(1, chosen)
        own = own / own.sum(1, keepdim=True) if renormalised else own
        return only(chosen, own * factor)

    random = torch.rand(24, 8, generator=torch.Generator().manual_seed(1)).argsort(1)[:, :k]
    largest = gates.amax(1, keepdim=True)
    wanted = [
        (keep(1), only(order[:, :1], largest)),
        (keep(1, renormalise=True), only(order[:, :1], gates.sum(1, keepdim=True))),
        (rank(1), weighed(order[:, :1])),
        (rank(2), weighed(order[:, 1:2])),
        (rank(k + 2), weighed(order[:, k + 1 : k + 2])),
        (rank(8), weighed(order[:, 7:])),
        (silence(OFF[:, :k]), only(experts, gates.masked_fill(OFF[:, :k], 0.0))),
        (force(random.view(2, 12, k)), weighed(random)),
        (force(random.view(2, 12, k), 0.3 * used.gates), only(random, 0.3 * gates)),
        (scale(0.5), 0.5 * clean),
        (mask([2, 3]), by_rule(model, z, [2, 3])),
        (keep(k), clean),
    ]
    torch.testing.assert_close(layer_by_hand(model, entering, clean), seen["leaving"])
    for number, (change, gate) in enumerate(wanted):
        with routing(model, change, [LAYER]), met(model) as seen:
            logits(model)
        assert torch.equal(seen["entering"], entering)
        torch.testing.assert_close(
            seen["leaving"], layer_by_hand(model, entering, gate),
            rtol=1e-4, atol=1e-4, msg=f"change {number}",
        )  # fmt: skip
        if number + 1 < len(wanted):
            assert not torch.allclose(gate, clean, atol=1e-3)


def unused(z: Tensor, experts: Tensor) -> Tensor:
    """The experts that a token does not use, by logit: [token, expert - k]."""
    rest = [
        [e for e in row.argsort(descending=True).tolist() if e not in chosen.tolist()]
        for row, chosen in zip(z, experts, strict=True)
    ]
    return torch.tensor(rest)


@pytest.mark.parametrize("family", EVERY)
def test_the_heaviest_are_kept_with_the_gates_they_had(family: str) -> None:
    model, k = tiny(family), top_k(tiny(family))
    used = table(routed(model))
    for count in range(1, k + 1):
        with routing(model, keep(count), [LAYER]):
            kept = table(routed(model))
        assert torch.equal(kept.topk(count, 1).values, used.topk(count, 1).values)
        assert ((kept == used) | (kept == 0)).all()
        assert ((kept > 0).sum(1) == count).all()
        with routing(model, keep(count, renormalise=True), [LAYER]):
            again = table(routed(model))
        torch.testing.assert_close(again, kept * (used.sum(1) / kept.sum(1))[:, None])


@pytest.mark.parametrize("family", EVERY)
def test_a_silenced_slot_has_a_gate_of_0_and_the_others_are_as_they_were(family: str) -> None:
    """What leaves the model with gates silenced is what its experts give when called so."""
    model, point = tiny(family), Point("resid_post", 2)
    with Capture(model, [point], routing=True) as capture:
        before = capture(**inputs_of(model))
        used = before.routing[LAYER]
        off = torch.zeros(24, used.experts.shape[-1], dtype=torch.bool)
        off[::2, 0] = True
        with routing(model, silence(off), [LAYER]):
            silenced = capture(**inputs_of(model))
        after = capture(**inputs_of(model))
    gates = used.gates.flatten(0, 1).masked_fill(off, 0)
    slots = torch.zeros(24, 8).scatter(1, used.experts.flatten(0, 1), gates)
    assert torch.equal(table(silenced.routing[LAYER]), slots)
    assert torch.equal(after.points[point], before.points[point])
    changed = (silenced.points[point] - before.points[point]).flatten(0, 1).abs().amax(1) > 1e-4
    assert changed[::2].all()


@pytest.mark.parametrize("family", EVERY)
def test_forced_experts_have_the_gates_of_the_family_in_whatever_order(family: str) -> None:
    model = tiny(family)
    used = routed(model)
    with routing(model, force(used.experts.flip(-1)), [LAYER]):
        flipped = routed(model)
    if family != "phimoe":  # whose gates depend on which comes first
        torch.testing.assert_close(table(flipped), table(used))
    with met(model) as seen:
        logits(model)
    least = seen["logits"].argsort(-1)[:, : used.experts.shape[-1]]
    with routing(model, force(least.view(used.experts.shape)), [LAYER]):
        forced = table(routed(model))
    assert ((forced > 0).sum(1) == used.experts.shape[-1]).all()
    assert (forced.gather(1, least) > 0).all()
