"""Changed routing is what each family makes of it, by hand; no change gives the same logits to the bit."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from families import MOE_FAMILIES, tiny
from moediff.core.errors import UserError
from moediff.hooks.capture import Capture, Routing
from moediff.hooks.interventions import intervene, replace
from moediff.hooks.points import Point
from moediff.hooks.routing import (
    CHANGES,
    force,
    freezing,
    keep,
    mask,
    rank,
    recording,
    routing,
    scale,
    silence,
)
from moediff.models.families import FAMILIES as TABLE
from moediff.models.families import blocks, read_routed, routers, top_k
from moediff.models.inputs import packed_inputs

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(1, 60, (2, 12))
STARTS = np.zeros(TOKENS.shape, bool)
STARTS[:, 0] = STARTS[0, 5] = STARTS[1, 9] = True
MASK = torch.from_numpy((RANDOM.random(TOKENS.shape) < 0.6) & ~STARTS)
EVERY = [*MOE_FAMILIES, "llama4"]  # all of the table
LAYER = 1  # of an MoE in all of them


def inputs_of(model) -> dict:
    return packed_inputs(model, TOKENS, STARTS)


def varied(family: str):
    """A tiny model in which the bias does not choose alone: tokens use different experts."""
    model = tiny(family)
    for router in routers(model).values():
        if TABLE[model.config.model_type].choice_bias:
            router.weight.mul_(10)
    return model


def logits(model) -> Tensor:
    with torch.no_grad():
        return model(**inputs_of(model)).logits


def routed(model, layer: int = LAYER) -> Routing:
    """What a layer used in a pass as the model now is."""
    with Capture(model, [Point("resid_post", layer)], routing=True) as capture:
        return capture(**inputs_of(model)).routing[layer]


def table(used: Routing, experts: int = 8) -> Tensor:
    """Gates [token, expert], 0 for what is not used."""
    chosen, gates = used.experts.flatten(0, 1), used.gates.flatten(0, 1)
    return torch.zeros(len(chosen), experts).scatter_add(1, chosen, gates.float())


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


# --- nothing changed ----------------------------------------------------------------------------

# Each change with which a model is what it was, of its routing there.
IDENTITIES = {
    "keep": lambda used, k: [keep(k), keep(k, renormalise=True)],
    "mask": lambda used, k: [mask(())],
    "silence": lambda used, k: [silence(torch.zeros_like(used.gates, dtype=torch.bool))],
    "force": lambda used, k: [force(used.experts), force(used.experts, used.gates)],
    "scale": lambda used, k: [scale(1.0)],
}


def test_every_change_has_its_identity_and_every_family_its_model() -> None:
    assert {*IDENTITIES, "rank"} == set(CHANGES)  # which uses one expert: see its own test
    assert {tiny(name).config.model_type for name in EVERY} == set(TABLE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", EVERY)
def test_changes_that_change_nothing_give_the_same_logits_to_the_bit(
    family: str, dtype: torch.dtype
) -> None:
    model = tiny(family).to(dtype)
    clean = logits(model)
    for layer in routers(model):
        used = routed(model, layer)
        for changes in IDENTITIES.values():
            for change in changes(used, used.gates.shape[-1]):
                with routing(model, change, [layer]):
                    assert torch.equal(logits(model), clean)
    for change in (keep(used.gates.shape[-1]), mask([]), scale(1.0)):
        with routing(model, change):
            assert torch.equal(logits(model), clean)
    assert torch.equal(logits(model), clean)
    assert not any("forward" in vars(router) for router in routers(model).values())


# Of Phi's two gates the second is often the larger, but not if it stands alone.
@pytest.mark.parametrize("family", [family for family in EVERY if family != "phimoe"])
def test_rank_1_is_the_model_that_uses_one_expert(family: str) -> None:
    """Where the first that is chosen is the first by gate, and the rule for one is that for k."""
    model, used = tiny(family), routed(tiny(family))
    with routing(model, rank(1), [LAYER]):
        first = table(routed(model))
    with routing(model, keep(1), [LAYER]):
        kept = table(routed(model))
    assert torch.equal(first > 0, kept > 0)
    config = model.config.get_text_config()
    total = TABLE[config.model_type].gates_sum(config)
    if total is None:  # a gate does not depend on what else is chosen
        torch.testing.assert_close(first, kept)
    else:
        torch.testing.assert_close(first.sum(1), torch.full((24,), total))
        with routing(model, keep(1, renormalise=True), [LAYER]):
            torch.testing.assert_close(table(routed(model)), first)
    one = tiny(family)
    if hasattr(routers(one)[LAYER], "norm_topk_prob") and not TABLE[config.model_type].choice_bias:
        routers(one)[LAYER].top_k = 1
        assert routed(one).gates.shape[-1] == 1
        with routing(model, rank(1), [LAYER]):
            assert torch.equal(logits(model), logits(one))
    assert used.gates.shape[-1] == top_k(model) > 1


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


# --- where a change acts ------------------------------------------------------------------------


def test_changes_act_in_the_layers_that_are_named_and_in_all_by_default() -> None:
    model = tiny("olmoe")
    clean = [table(routed(model, layer)) for layer in range(3)]
    with routing(model, keep(1), [1]):
        one = [table(routed(model, layer)) for layer in range(3)]
    with routing(model, keep(1)):
        all_layers = [table(routed(model, layer)) for layer in range(3)]
    assert [int((part > 0).sum(1).max()) for part in one] == [2, 1, 2]
    assert [int((part > 0).sum(1).max()) for part in all_layers] == [1, 1, 1]
    assert torch.equal(one[0], clean[0])
    with routing(model, scale(0.0), ()):
        assert torch.equal(table(routed(model, 0)), clean[0])


def test_changed_routing_is_what_is_read_and_recorded_whoever_came_first() -> None:
    model, point = tiny("mixtral"), Point("resid_post", 2)
    with Capture(model, [point], routing=True) as before, routing(model, keep(1)):
        assert ((before(**inputs_of(model)).routing[1].gates > 0).sum(-1) == 1).all()
    with recording(model, Point("resid_pre", 0)) as seen, routing(model, keep(1)):
        logits(model)
    assert all(((part.gates > 0).sum(-1) == 1).all() for part in seen.values())


def test_a_pass_that_fails_leaves_the_routers_as_they_were() -> None:
    model = tiny("llama4")
    clean, own = logits(model), routers(model)[1].forward
    routers(model)[1].forward = own  # as accelerate and others set it
    with pytest.raises(UserError, match="a token uses 2 experts: keep 1 to 2 of them, not 3"):
        with routing(model, keep(3)):
            logits(model)
    assert vars(routers(model)[1])["forward"] == own
    assert "forward" not in vars(routers(model)[2])
    assert torch.equal(logits(model), clean)


def test_a_model_that_accelerate_places_is_changed_too() -> None:
    accelerate = pytest.importorskip("accelerate")
    plain, model = tiny("deepseek-v3"), tiny("deepseek-v3")
    inputs = inputs_of(plain)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    for change in (mask([2, 3]), keep(2), keep(3)):
        with routing(plain, change), routing(model, change), torch.no_grad():
            assert torch.equal(model(**inputs).logits, plain(**inputs).logits)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_fewer_slots_do_not_depend_on_how_experts_are_computed(implementation: str) -> None:
    plain, model = tiny("qwen3-moe"), tiny("qwen3-moe")
    model.set_experts_implementation(implementation)
    for change in (rank(3), keep(1), force(torch.arange(24 * 3).view(2, 12, 3) % 8)):
        with routing(plain, change), routing(model, change):
            torch.testing.assert_close(logits(model), logits(plain), rtol=1e-4, atol=1e-4)


def test_changes_that_cannot_be_are_refused() -> None:
    model = tiny("qwen3-moe")
    with pytest.raises(UserError, match=r"Llama.*: layer 0 has no experts"):
        with routing(tiny("llama"), keep(1), [0]):
            pass
    with pytest.raises(UserError, match=r"Llama.*: no layer has experts"):
        with routing(tiny("llama"), keep(1)):
            pass
    with pytest.raises(UserError, match="layer 0 has no experts"):
        with routing(tiny("deepseek-v3"), keep(1), [1, 0]):
            pass
    for change, message in (
        (keep(0), "a token uses 2 experts: keep 1 to 2 of them, not 0"),
        (rank(0), "there are 8 experts: take a rank of 1 to 8, not 0"),
        (rank(9), "take a rank of 1 to 8, not 9"),
        (mask(range(7)), "experts 0 to 7 of which a token uses 2; 7 of them cannot be masked"),
        (mask([8]), r"1 of them cannot be masked: \[8\]"),
        (silence(torch.zeros(24, 3, dtype=torch.bool)), "uses 2 experts, slots of 3 are silenced"),
        (silence(torch.zeros(9, 2, dtype=torch.bool)), "for 9 positions, the pass has 24"),
        (force(torch.zeros(2, 11, 2, dtype=torch.long)), "for 22 positions, the pass has 24"),
    ):
        with pytest.raises(UserError, match=message), routing(model, change):
            logits(model)
    with pytest.raises(UserError, match="is given an expert that is masked"):
        with routing(model, mask([3])), routing(model, force(torch.full((2, 12, 1), 3))):
            logits(model)
    logits(model)


def test_a_family_that_is_not_in_the_table_is_changed_as_far_as_its_structure_goes() -> None:
    model = tiny("minimax-m2")
    used = table(routed(model))
    with routing(model, keep(1), [LAYER]):
        assert torch.equal(table(routed(model)), used.masked_fill(used < used.amax(1, True), 0.0))
    for change in (mask([1]), rank(1), force(routed(model).experts)):
        with pytest.raises(
            UserError, match=r"the rule by which .* is not known; add its family to"
        ):
            with routing(model, change):
                logits(model)
    model = tiny("jetmoe")
    with pytest.raises(UserError, match=r"JetMoe.* does not return gates of the experts"):
        with routing(model, keep(1)):
            logits(model)


# --- routing of another pass --------------------------------------------------------------------


def random_rows(scale: float = 100.0) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return scale * torch.randn(int(MASK.sum()), 32, generator=random, dtype=torch.float64)


@contextmanager
def given_to_experts(model):
    """Experts and gates with which the experts of each layer are called, in its passes."""
    called: list[tuple[Tensor, Tensor]] = []
    handles = [
        part.register_forward_pre_hook(lambda _, given: called.append((given[1], given[2])))
        for name, part in model.named_modules()
        if name.endswith(".experts")
    ]
    yield called
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_frozen_routing_is_that_of_the_clean_pass_and_live_routing_is_not(family: str) -> None:
    model, edit, point = tiny(family), replace(random_rows()), Point("resid_mid", 1)
    with given_to_experts(model) as called:
        with recording(model, point) as clean_routing:
            logits(model)
        layers = len(called)
        assert list(clean_routing) == [1, 2]
        changed = []
        for given in ({}, clean_routing, clean_routing):
            with intervene(model, point, edit, MASK), freezing(model, given):
                changed.append(logits(model))
        logits(model)
    clean, live, first, second, after = (
        called[start : start + layers] for start in range(0, 5 * layers, layers)
    )
    for number in range(layers):
        for other in (first, second, after):
            assert torch.equal(other[number][0], clean[number][0])
            assert torch.equal(other[number][1], clean[number][1])
    other = [not torch.equal(one[0], two[0]) for one, two in zip(live, clean, strict=True)]
    assert other[-2:] == [True, True]  # of the layer itself, whose feed-forward comes after
    assert torch.equal(changed[1], changed[2])
    assert not torch.allclose(changed[0], changed[1], atol=1e-3)


def test_a_router_that_gives_a_table_is_frozen_too() -> None:
    """Llama 4 calls every expert with its input times its gate, which is 0 for those not chosen."""
    model, edit, called = tiny("llama4"), replace(random_rows()), []
    point = Point("resid_mid", 1)
    for block in blocks(model)[1:]:
        block.feed_forward.experts.register_forward_pre_hook(
            lambda _, given: called.append((given[0] != 0).any(-1))
        )
    with recording(model, point) as clean_routing:
        logits(model)
    for given in ({}, clean_routing):
        with intervene(model, point, edit, MASK), freezing(model, given):
            logits(model)
    clean, live, frozen = called[:2], called[2:4], called[4:]
    for number in (0, 1):
        assert torch.equal(frozen[number], clean[number])
        assert not torch.equal(live[number], clean[number])


@pytest.mark.parametrize("family", EVERY)
def test_freezing_the_clean_routing_gives_the_same_logits_to_the_bit(family: str) -> None:
    model = tiny(family)
    with recording(model, Point("resid_pre", 0)) as clean_routing:
        clean = logits(model)
    assert list(clean_routing) == list(routers(model))
    with freezing(model, clean_routing):
        assert torch.equal(logits(model), clean)


@pytest.mark.parametrize(
    ("point", "layers"),
    [
        (Point("resid_pre", 1), [1, 2]), (Point("attn_out", 1), [1, 2]),
        (Point("resid_mid", 1), [1, 2]), (Point("mlp_out", 1), [2]), (Point("resid_post", 1), [2]),
        (Point("mlp_out", 2), []), (Point("resid_post", 2), []),
    ],
    ids=str,
)  # fmt: skip
def test_routers_behind_a_point_are_those_that_can_change(point: Point, layers: list[int]) -> None:
    model = tiny("olmoe")
    with given_to_experts(model) as called, recording(model, point) as routing_behind:
        logits(model)
        with intervene(model, point, replace(random_rows()), MASK):
            logits(model)
    clean, live = called[:3], called[3:]
    same = [torch.equal(one[1], two[1]) for one, two in zip(clean, live, strict=True)]
    assert list(routing_behind) == [layer for layer in range(3) if not same[layer]] == layers


def test_routing_of_a_family_that_is_not_in_the_table_is_not_frozen() -> None:
    with pytest.raises(UserError, match="how its routing is frozen is not known; set activations"):
        with recording(tiny("minimax-m2"), Point("resid_post", 1)):
            pass
    with recording(tiny("minimax-m2"), Point("resid_post", 2)) as behind:
        pass
    assert behind == {}
    with recording(tiny("llama"), Point("resid_pre", 0)) as behind:
        pass
    assert behind == {}
