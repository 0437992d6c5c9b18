"""Routing as it is captured, against what the router gave and the experts got."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captured import PACKED, WHOLE, read
from families import MOE_FAMILIES, tiny
from moediff.core.errors import UserError
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point
from moediff.models import autocast
from moediff.models.families import FAMILIES as TABLE
from moediff.models.families import blocks


def own_rule(config, router: nn.Module, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Experts and gates of logits [token, expert] by the family's rule, written out again."""
    kind, k = config.model_type, config.num_experts_per_tok
    scores = logits.float().softmax(-1)
    if kind == "gpt_oss" or kind == "granitemoe":
        top, experts = logits.topk(k, -1)
        return experts, top.softmax(-1)
    if kind in ("deepseek_v3", "glm4_moe"):
        scores = logits.float().sigmoid()
    ranked = scores
    if kind in ("deepseek_v3", "glm4_moe"):
        ranked = scores + router.e_score_correction_bias
    groups = getattr(config, "n_group", 1) or 1
    if groups > 1:
        grouped = ranked.view(len(ranked), groups, -1)
        best = grouped.topk(2, -1)[0].sum(-1) if kind == "deepseek_v3" else grouped.amax(-1)
        kept = torch.zeros_like(best).scatter(1, best.topk(config.topk_group, -1)[1], 1.0)
        ranked = ranked.masked_fill(kept.repeat_interleave(grouped.shape[-1], 1) == 0, 0.0)
    experts = ranked.topk(k, -1)[1]
    gates = scores.gather(1, experts)
    if kind == "mixtral" or getattr(config, "norm_topk_prob", False):
        gates = gates / gates.sum(-1, keepdim=True)
    return experts, gates * getattr(config, "routed_scaling_factor", 1.0)


def by_expert(experts: torch.Tensor, gates: torch.Tensor, count: int) -> torch.Tensor:
    """Gates as a table [token, expert], whatever the order of the chosen."""
    table = torch.zeros(len(experts), count)
    return table.scatter(1, experts, gates.float())


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_routing_is_what_the_router_gave_and_the_experts_got(family: str) -> None:
    model = tiny(family)
    point = Point("resid_post", 2)
    given, logits = {}, {}
    for number, block in enumerate(blocks(model)):
        feed_forward = getattr(block, "mlp", None) or block.block_sparse_moe
        if hasattr(feed_forward, "experts"):
            router = getattr(feed_forward, "gate", None) or feed_forward.router
            router.register_forward_hook(
                lambda _, __, out, number=number: logits.update({number: out[0].detach()})
            )
            feed_forward.experts.register_forward_pre_hook(
                lambda _, args, number=number: given.update({number: args})
            )
    found = read(model, [point], PACKED, routing=True, probabilities=True).routing
    assert sorted(found) == sorted(given)
    assert 2 in found
    for layer, routing in found.items():
        feed_forward = getattr(blocks(model)[layer], "mlp", None)
        feed_forward = feed_forward or blocks(model)[layer].block_sparse_moe
        router = getattr(feed_forward, "gate", None) or feed_forward.router
        experts, gates = routing.experts.flatten(0, 1), routing.gates.flatten(0, 1)
        assert any(
            part is given[layer][1] or torch.equal(part, experts) for part in given[layer][1:]
        )
        ids, weights = (
            next(p for p in given[layer][1:] if p.is_floating_point() == kind)
            for kind in (False, True)
        )
        count = logits[layer].shape[-1]
        used = by_expert(ids, weights, count)
        torch.testing.assert_close(by_expert(experts, gates, count), used, rtol=0, atol=0)
        assert all(len(set(row)) == len(row) for row in experts.tolist())
        if model.config.model_type != "phimoe":  # its rule is a jitter of its own
            ids, weights = own_rule(model.config, router, logits[layer].reshape(-1, count))
            torch.testing.assert_close(by_expert(ids, weights, count), used, rtol=1e-4, atol=1e-5)
        total = TABLE[model.config.model_type].gates_sum(model.config)
        if total is not None:
            torch.testing.assert_close(gates.sum(1), torch.full((24,), total), rtol=1e-5, atol=0)
        elif family != "phimoe":
            assert float((gates.sum(1) - 1).abs().min()) > 1e-3
        probabilities = routing.probabilities.flatten(0, 1)
        assert probabilities.shape == (24, count)
        if model.config.model_type in ("deepseek_v3", "glm4_moe"):
            torch.testing.assert_close(probabilities, logits[layer].reshape(-1, count).sigmoid())
        else:
            torch.testing.assert_close(probabilities.sum(1), torch.ones(24))


@pytest.mark.parametrize("family", ["deepseek-v3", "deepseek-v2, groups", "glm4-moe"])
def test_bias_and_groups_choose_others_than_the_largest_logits(family: str) -> None:
    routing = read(
        tiny(family), [Point("resid_post", 2)], routing=True, probabilities=True
    ).routing[2]
    largest = routing.probabilities.topk(routing.experts.shape[-1], -1)[1].sort(-1)[0]
    assert float((largest != routing.experts.sort(-1)[0]).any(-1).float().mean()) > 0.2


def test_routing_ends_where_the_pass_does() -> None:
    model = tiny("olmoe")
    for hook, layer, routed in (
        ("resid_pre", 2, (0, 1)), ("resid_mid", 0, ()), ("mlp_out", 1, (0, 1)),
        ("resid_post", 2, (0, 1, 2)),
    ):  # fmt: skip
        with Capture(model, [Point(hook, layer)], routing=True) as capture:
            assert capture.routed == routed
            assert tuple(capture(**WHOLE).routing) == routed
    assert read(model, [Point("resid_post", 2)]).routing == {}
    assert read(tiny("llama"), [Point("resid_post", 2)], routing=True).routing == {}
    with Capture(tiny("deepseek-v2"), [Point("resid_post", 2)], routing=True) as capture:
        assert capture.routed == (1, 2)  # the first layer is dense


@pytest.mark.parametrize("family", ["qwen3-moe", "mixtral"])
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "autocast"])
def test_routing_does_not_depend_on_how_experts_are_computed(
    family: str, implementation: str
) -> None:
    plain = read(tiny(family), [Point("resid_post", 2)], routing=True)
    model = tiny(family)
    autocast.follow_autocast(model)
    model.set_experts_implementation(implementation)
    found = read(model, [Point("resid_post", 2)], routing=True)
    for layer in (0, 1, 2):
        assert torch.equal(found.routing[layer].experts, plain.routing[layer].experts)
        torch.testing.assert_close(found.routing[layer].gates, plain.routing[layer].gates)


@pytest.mark.parametrize("family", ["gemma4-moe", "minimax-m2"])
def test_a_family_that_is_not_in_the_table_is_read_by_its_structure(family: str) -> None:
    model, given = tiny(family), {}
    assert model.config.model_type not in TABLE
    for number, block in enumerate(blocks(model)):
        holder = block if hasattr(block, "experts") else block.mlp
        holder.experts.register_forward_pre_hook(
            lambda _, args, number=number: given.update({number: args})
        )
    found = read(model, [Point("resid_post", 2)], routing=True).routing
    assert sorted(found) == [0, 1, 2]
    for layer, routing in found.items():
        assert torch.equal(routing.experts.flatten(0, 1), given[layer][1])
        assert torch.equal(routing.gates.flatten(0, 1), given[layer][2])
    with pytest.raises(UserError, match=r"probabilities of logits is not known; set .* to used"):
        Capture(model, [Point("resid_post", 2)], routing=True, probabilities=True)


def test_llama4_gates_are_what_its_experts_inputs_are_scaled_by() -> None:
    model, scaled = tiny("llama4"), {}
    for number in (1, 2):
        part = blocks(model)[number].feed_forward
        part.register_forward_pre_hook(
            lambda _, args, number=number: scaled.update({number: [args[0].reshape(-1, 32)]})
        )
        part.experts.register_forward_pre_hook(
            lambda _, args, number=number: scaled[number].append(args[0].reshape(8, -1, 32))
        )
    found = read(model, [Point("resid_post", 2)], PACKED, routing=True, probabilities=True).routing
    assert sorted(found) == [1, 2]
    for layer, routing in found.items():
        plain, given = scaled[layer]
        experts, gates = routing.experts.flatten(0, 1), routing.gates.flatten(0, 1)
        assert all(len(set(row)) == 2 for row in experts.tolist())
        table = by_expert(experts, gates, 8)
        assert torch.equal(table.T[:, :, None] * plain, given)
        probabilities = routing.probabilities.flatten(0, 1)
        torch.testing.assert_close(probabilities.gather(1, experts), gates)
        assert torch.equal(probabilities.topk(2, -1)[1].sort(1)[0], experts.sort(1)[0])


def test_experts_without_a_router_that_is_known_are_never_taken_for_dense() -> None:
    model = tiny("gpt-oss")
    blocks(model)[1].mlp.chooser = blocks(model)[1].mlp.router
    del blocks(model)[1].mlp.router
    with pytest.raises(UserError, match=r"no router .* of mlp \(parts: experts, chooser\); set"):
        Capture(model, [Point("resid_post", 2)], routing=True)
    Capture(model, [Point("resid_post", 2)]).__exit__()
    with pytest.raises(UserError, match=r"JetMoe.* router of layer 0 does not give logits, gates"):
        read(tiny("jetmoe"), [Point("resid_post", 2)], routing=True)


def test_a_router_that_a_pass_goes_around_is_said() -> None:
    model = tiny("olmoe")
    blocks(model)[1].mlp.forward = lambda hidden: hidden
    with pytest.raises(
        UserError, match=r"never met the router of layer 1; set activations.routing"
    ):
        read(model, [Point("resid_post", 1)], routing=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda out: out[:2],
        lambda out: (out[0], out[1].flatten(), out[2].flatten()),
        lambda out: (out[0], out[1].T, out[2].T),
        lambda out: (out[0], out[1], out[2].float()),
    ],
    ids=["two", "flat", "turned", "float"],
)
def test_a_router_of_another_form_is_refused(change) -> None:
    model = tiny("olmoe")
    blocks(model)[0].mlp.gate.register_forward_hook(lambda _, __, out: change(out))
    with pytest.raises(
        UserError, match="router of layer 0 does not give logits, gates and experts"
    ):
        # The model itself could not go on: it is refused before.
        read(model, [Point("resid_mid", 1)], routing=True)
