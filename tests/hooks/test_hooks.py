"""Hook points against a pass made by hand, in every family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from captured import PACKED, STARTS, TOKENS, WHOLE, WHOLE_STARTS, every_point, read
from families import FAMILIES, PARALLEL, tiny
from moediff.core.errors import UserError
from moediff.hooks.capture import Capture
from moediff.hooks.points import HOOKS, Point
from moediff.hooks.proofs import prove, prove_packing
from moediff.models import families
from moediff.models.families import FAMILIES as TABLE
from moediff.models.families import blocks
from moediff.models.inputs import model_inputs, packed_inputs


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
