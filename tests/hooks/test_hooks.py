"""Hook points and routing of many families: what is read is what the model computes and uses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from families import FAMILIES, MOE_FAMILIES, PARALLEL, tiny
from moediff.core.errors import UserError
from moediff.hooks.capture import Capture
from moediff.hooks.points import HOOKS, Point
from moediff.hooks.proofs import prove, prove_packing
from moediff.models import autocast, families
from moediff.models.families import FAMILIES as TABLE
from moediff.models.families import blocks
from moediff.models.inputs import model_inputs, packed_inputs

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(1, 60, (2, 12))
STARTS = np.zeros(TOKENS.shape, bool)
STARTS[:, 0] = STARTS[0, 5] = STARTS[1, 9] = True
PACKED = model_inputs(TOKENS, STARTS, "cpu")
WHOLE_STARTS = np.arange(12) == np.zeros((2, 1))
WHOLE = model_inputs(TOKENS, WHOLE_STARTS, "cpu")


def every_point(layers: int = 3) -> list[Point]:
    return [Point(hook, layer) for layer in range(layers) for hook in HOOKS]


def read(model, points: list[Point], inputs: dict = WHOLE, **settings: bool):
    with Capture(model, points, **settings) as capture:
        return capture(**inputs)


# --- points -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_points_are_what_the_model_computes(family: str) -> None:
    model = tiny(family)
    found = read(model, every_point(), PACKED).points
    entering, leaving = [], []
    handles = [
        block.register_forward_pre_hook(
            lambda _, given, named: entering.append(given[0] if given else named["hidden_states"]),
            with_kwargs=True,
        )
        for block in blocks(model)
    ]
    handles += [
        block.register_forward_hook(
            lambda _, __, out: leaving.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in blocks(model)
    ]
    with torch.no_grad():
        last = families.backbone(model)(**PACKED, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    for layer in range(3):
        assert torch.equal(found[Point("resid_pre", layer)], entering[layer])
        pre, attended, middle, fed, post = (found[Point(hook, layer)] for hook in HOOKS)
        assert torch.equal(post, leaving[layer])
        torch.testing.assert_close(pre + attended, middle, rtol=0, atol=0)
        torch.testing.assert_close(middle + fed, post, rtol=1e-5, atol=1e-5)
        if layer < 2:
            assert torch.equal(post, entering[layer + 1])
            assert torch.equal(post, last.hidden_states[layer + 1])
        assert float(fed.norm()) > 0.01 * float(post.norm())
    prove(model, every_point(), PACKED)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_points_in_one_pass_are_those_of_one_each(family: str) -> None:
    model = tiny(family)
    together = read(model, every_point()[::-1]).points
    for point in every_point():
        assert torch.equal(read(model, [point]).points[point], together[point])


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_after_the_last_point_is_computed(family: str) -> None:
    model, ran = tiny(family), []
    for number, block in enumerate(blocks(model)):
        block.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
        feed_forward = getattr(block, "mlp", None) or block.block_sparse_moe
        feed_forward.register_forward_pre_hook(lambda *_, n=number: ran.append(f"mlp {n}"))
    read(model, [Point("resid_mid", 1), Point("resid_post", 0)], routing=True)
    assert ran == [0, "mlp 0", 1]


@pytest.mark.parametrize("family", [*FAMILIES, "gpt-neox", "phi", "llama4", "gemma4-moe"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_stays_inside_a_packed_segment(family: str, attention: str) -> None:
    model, point = tiny(family), Point("resid_post", 2)
    if attention == "sdpa" and not model._supports_sdpa:
        pytest.skip("has eager attention only")
    model.set_attn_implementation(attention)
    packed = read(model, [point], packed_inputs(model, TOKENS, STARTS)).points[point]
    for row, part in ((0, slice(0, 5)), (0, slice(5, 12)), (1, slice(9, 12))):
        tokens = TOKENS[row : row + 1, part]
        starts = np.arange(tokens.shape[1])[None] == 0
        alone = read(model, [point], model_inputs(tokens, starts, "cpu")).points[point]
        torch.testing.assert_close(packed[row, part], alone[0], rtol=1e-4, atol=1e-4)
    prove_packing(model, TOKENS, STARTS)


def test_masks_of_ours_are_those_of_the_library() -> None:
    """One segment, a window shorter than it: with our masks as without them."""
    model, points = tiny("gpt-oss"), [Point("resid_post", layer) for layer in range(3)]
    for kinds in (["full_attention"] * 3, ["sliding_attention", "full_attention"] * 2):
        model.config.layer_types = kinds[:3]
        one = read(model, points, packed_inputs(model, TOKENS, WHOLE_STARTS))
        two = read(model, points, WHOLE)
        for point in points:
            torch.testing.assert_close(one.points[point], two.points[point])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_segments_that_see_others_are_refused(monkeypatch, dtype: torch.dtype) -> None:
    monkeypatch.setitem(TABLE, "gpt_oss", replace(TABLE["gpt_oss"], ignores_packing=False))
    for family in ("gpt-oss", "falcon", "opt", "falcon-h1"):  # the last by its recurrent state
        model = tiny(family).to(dtype)
        with pytest.raises(UserError, match=r"documents of a sequence.*attend_across_documents"):
            prove_packing(model, TOKENS, STARTS)
        prove_packing(model, TOKENS, WHOLE_STARTS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_layer_that_sees_others_is_enough(dtype: torch.dtype) -> None:
    model = tiny("qwen3-moe").to(dtype)
    prove_packing(model, TOKENS, STARTS)
    blocks(model)[2].register_forward_pre_hook(
        lambda _, given, named: (given, named | {"attention_mask": None}), with_kwargs=True
    )
    with pytest.raises(UserError, match="layer 2 sees across the documents"):
        prove_packing(model, TOKENS, STARTS)


def test_positions_that_go_on_are_refused() -> None:
    model = tiny("gpt2")
    model.transformer.wpe.register_forward_pre_hook(
        lambda _, given: (torch.arange(given[0].shape[1])[None],)
    )
    with pytest.raises(UserError, match="its positions do not start anew in each document"):
        prove_packing(model, TOKENS, STARTS)


@pytest.mark.parametrize("family", PARALLEL)
def test_parallel_blocks_have_no_stream_between(family: str) -> None:
    model = tiny(family)
    points = [Point("attn_out", 1), Point("mlp_out", 1), Point("resid_post", 1)]
    prove(model, points, WHOLE)
    for given in (model, tiny(family).to(torch.bfloat16)):
        with pytest.raises(
            UserError,
            match=r"^\w+: resid_mid cannot be read in layer 1: .* side by side; take resid_pre, "
            "attn_out, mlp_out, resid_post$",
        ):
            prove(given, [Point("resid_mid", 1), Point("resid_pre", 1)], WHOLE)


def test_parts_that_do_not_add_up_are_refused() -> None:
    model = tiny("llama")
    plain = blocks(model)[1].forward
    blocks(model)[1].forward = lambda *given, **named: plain(*given, **named) * 1.01
    prove(model, [Point("mlp_out", 0), Point("resid_post", 1)], WHOLE)
    with pytest.raises(
        UserError,
        match=r"LlamaForCausalLM: mlp_out cannot be read in layer 1: .* is not resid_post; take "
        "resid_pre, attn_out, resid_mid, resid_post$",
    ):
        prove(model, every_point(), WHOLE)
    prove(model, [Point("attn_out", 1), Point("resid_mid", 1)], WHOLE)  # before it goes wrong


def test_a_scaled_residual_is_scaled() -> None:
    model = tiny("granite-moe")
    for block in blocks(model):
        block.residual_multiplier = 0.25
    prove(model, every_point(), WHOLE)
    small, large = read(model, [Point("mlp_out", 0)]), tiny("granite-moe")
    assert not torch.equal(
        small.points[Point("mlp_out", 0)],
        read(large, [Point("mlp_out", 0)]).points[Point("mlp_out", 0)],
    )


@pytest.mark.parametrize("family", [*FAMILIES, "llama4", "gemma4-moe"])
def test_bfloat16_sums_pass_the_proof(family: str) -> None:
    prove(tiny(family).to(torch.bfloat16), every_point(), WHOLE)


def test_what_is_missing_is_said_with_what_is_there() -> None:
    model = tiny("llama")
    for layer in (3, -1):
        with pytest.raises(
            UserError, match=f"layer {layer} does not exist; the model has 3 layers"
        ):
            Capture(model, [Point("resid_post", layer)])
    with pytest.raises(UserError, match="hook mlp does not exist; the hooks: resid_pre, attn_out"):
        Capture(model, [Point("mlp", 0)])
    del blocks(model)[1].self_attn
    with pytest.raises(
        UserError,
        match=r"^LlamaForCausalLM: no attn_out was found in LlamaDecoderLayer; its parts: mlp",
    ):
        Capture(model, [Point("attn_out", 1)])
    model.base_model.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    model.base_model.others = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    with pytest.raises(UserError, match=r"2 stacks of 3 .* lists of modules: layers \(3 x Linear"):
        Capture(model, [Point("resid_post", 1)])


def test_blocks_without_known_parts_have_what_enters_and_leaves_them() -> None:
    model = tiny("opt")
    found = read(model, [Point("resid_post", 0), Point("resid_pre", 1)]).points
    assert torch.equal(found[Point("resid_post", 0)], found[Point("resid_pre", 1)])
    with pytest.raises(
        UserError, match="no mlp_out was found in OPTDecoderLayer; its parts: self_"
    ):
        Capture(model, [Point("mlp_out", 1)])


def test_a_stream_of_another_form_is_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"resid_post of layer 1 is \(2, 12, 4, 32\), not \[batch, position, d_model",
    ):
        read(tiny("deepseek-v4"), [Point("resid_post", 1)])


# --- a model that goes on being used -----------------------------------------------------------


def test_a_capture_that_is_refused_leaves_no_hook() -> None:
    model = tiny("olmoe")
    del blocks(model)[2].self_attn
    with pytest.raises(UserError, match="no attn_out"):
        Capture(model, [Point("resid_post", 0), Point("attn_out", 2)], routing=True)
    read(model, every_point(2), routing=True)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_pass_that_failed_can_be_tried_again() -> None:
    model, points = tiny("llama"), [Point("resid_post", layer) for layer in range(3)]
    wanted = read(model, points).points

    def fail(*_) -> None:
        raise MemoryError

    with Capture(model, points) as capture:
        handle = blocks(model)[2].register_forward_pre_hook(fail)
        with pytest.raises(MemoryError):
            capture(**PACKED)
        handle.remove()
        found = capture(**WHOLE).points
    assert all(torch.equal(found[point], wanted[point]) for point in points)


def test_a_model_that_accelerate_places_gives_the_same() -> None:
    accelerate = pytest.importorskip("accelerate")
    plain = read(tiny("olmoe"), every_point(), routing=True)
    model = tiny("olmoe")
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    for _ in range(2):  # a pass that was stopped leaves nothing behind
        found = read(model, every_point(), routing=True)
        assert all(torch.equal(found.points[point], plain.points[point]) for point in plain.points)
        assert all(torch.equal(found.routing[n].gates, plain.routing[n].gates) for n in range(3))


def test_blocks_may_lie_on_other_devices_than_what_enters_them() -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    model = tiny("llama")
    for block in blocks(model)[1:]:
        move = hooks.AlignDevicesHook(execution_device="meta", io_same_device=False)
        hooks.add_hook_to_module(block.to("meta"), move)
    found = read(model, every_point(2)).points
    assert found[Point("resid_pre", 1)].device.type == "cpu"
    assert found[Point("resid_mid", 1)].device.type == "meta"


# --- routing ------------------------------------------------------------------------------------


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
