"""A model changed while it runs goes on from what is put in place; frozen routing is the clean pass's."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import MOE
from families import FAMILIES, MOE_FAMILIES, tiny
from moediff.core.errors import UserError
from moediff.hooks.capture import Capture
from moediff.hooks.interventions import recording, replacing
from moediff.hooks.points import HOOKS, Point
from moediff.hooks.proofs import prove
from moediff.models.families import blocks
from moediff.models.inputs import packed_inputs

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(1, 60, (2, 12))
STARTS = np.zeros(TOKENS.shape, bool)
STARTS[:, 0] = STARTS[0, 5] = STARTS[1, 9] = True
MASK = torch.from_numpy((RANDOM.random(TOKENS.shape) < 0.6) & ~STARTS)


def logits(model, inputs: dict) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def random_rows(mask: Tensor, scale: float = 3.0) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return scale * torch.randn(int(mask.sum()), 32, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("family", [*FAMILIES, "llama4"])
def test_the_model_goes_on_from_what_is_put_in_place(family: str) -> None:
    """Read by hooks of `Capture`, which the proofs show to be what the block computes from."""
    model, every = tiny(family), [Point(hook, 1) for hook in HOOKS]
    if family == "granite-moe":  # which scales what is added to the stream
        for block in blocks(model):
            block.residual_multiplier = 0.5
    inputs = packed_inputs(model, TOKENS, STARTS)
    clean, values = logits(model, inputs), random_rows(MASK)
    with Capture(model, every) as capture:
        before = capture(**inputs).points
    for place, point in enumerate(every):
        with replacing(model, point, values, MASK):
            if point.hook != "resid_post":  # which is no sum of the parts before it then
                prove(model, every, inputs)
            with Capture(model, every) as capture:
                found = capture(**inputs).points
            spliced = logits(model, inputs)
        torch.testing.assert_close(found[point][MASK], values.float(), rtol=1e-5, atol=1e-5)
        assert torch.equal(found[point][~MASK], before[point][~MASK])
        for earlier in every[:place]:
            if (earlier.hook, point.hook) != ("attn_out", "resid_mid"):  # which it is put into
                assert torch.equal(found[earlier], before[earlier])
        assert not torch.allclose(spliced, clean, atol=1e-2)
        assert torch.equal(logits(model, inputs), clean)  # the hooks are off again


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", ["qwen3-moe, raw", "mixtral", "olmoe", "gpt2", "granite-moe"])
def test_clean_values_change_nothing_with_either_routing(family: str, hook: str) -> None:
    model, point = tiny(family), Point(hook, 0)
    inputs = packed_inputs(model, TOKENS, STARTS)
    with recording(model, point) as routing:
        clean = logits(model, inputs)
    assert bool(routing) == (family in MOE_FAMILIES)
    with Capture(model, [point]) as capture:
        rows = capture(**inputs).points[point][MASK]
    for given in (None, routing):
        with replacing(model, point, rows, MASK, given):
            found = logits(model, inputs)
        if hook == "resid_mid" or family == "granite-moe":  # a sum, or a product, is undone
            torch.testing.assert_close(found, clean, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(found, clean)


@contextmanager
def given_to_experts(model):
    """Experts and gates with which the experts of each layer are called, in its passes."""
    found: list[tuple[Tensor, Tensor]] = []
    handles = [
        part.register_forward_pre_hook(lambda _, given: found.append((given[1], given[2])))
        for name, part in model.named_modules()
        if name.endswith(".experts")
    ]
    yield found
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_frozen_routing_is_that_of_the_clean_pass_and_live_routing_is_not(family: str) -> None:
    model, values, point = tiny(family), random_rows(MASK, 100), Point("resid_mid", 1)
    inputs = packed_inputs(model, TOKENS, STARTS)
    with given_to_experts(model) as found:
        with recording(model, point) as routing:
            logits(model, inputs)
        layers = len(found)
        assert list(routing) == [1, 2]
        frozen = []
        for given in (None, routing, routing):
            with replacing(model, point, values, MASK, given):
                frozen.append(logits(model, inputs))
        logits(model, inputs)
    clean, live, first, second, after = (
        found[start : start + layers] for start in range(0, 5 * layers, layers)
    )
    for number in range(layers):
        for other in (first, second, after):
            assert torch.equal(other[number][0], clean[number][0])
            assert torch.equal(other[number][1], clean[number][1])
    changed = [not torch.equal(one[0], two[0]) for one, two in zip(live, clean, strict=True)]
    assert changed[-2:] == [True, True]  # of the layer itself, whose feed-forward comes after
    assert torch.equal(frozen[1], frozen[2])
    assert not torch.allclose(frozen[0], frozen[1], atol=1e-3)


def test_a_router_that_gives_a_table_is_frozen_too() -> None:
    """Llama 4 calls every expert with its input times its gate, which is 0 for those not chosen."""
    model, values, called = tiny("llama4"), random_rows(MASK, 100), []
    point = Point("resid_mid", 1)
    for block in blocks(model)[1:]:
        block.feed_forward.experts.register_forward_pre_hook(
            lambda _, given: called.append((given[0] != 0).any(-1))
        )
    inputs = packed_inputs(model, TOKENS, STARTS)
    with recording(model, point) as routing:
        logits(model, inputs)
    for given in (None, routing):
        with replacing(model, point, values, MASK, given):
            logits(model, inputs)
    clean, live, frozen = called[:2], called[2:4], called[4:]
    for number in (0, 1):
        assert torch.equal(frozen[number], clean[number])
        assert not torch.equal(live[number], clean[number])


def test_what_does_not_fit_is_refused(tiny_model) -> None:
    model, values = tiny_model(MOE).eval(), random_rows(MASK)
    for point, rows, message in (
        (Point("resid_post", 2), values, "layer 2 does not exist"),
        (Point("mlp_in", 0), values, "hook mlp_in does not exist"),
        (Point("mlp_out", 0), values[1:], "values are replaced"),
        (Point("mlp_out", 0), values[:, 1:], "values are replaced"),
    ):
        with pytest.raises(UserError, match=message):
            with replacing(model, point, rows, MASK):
                pass
    with pytest.raises(UserError, match="how its routing is frozen is not known; set activations"):
        with recording(tiny("minimax-m2"), Point("resid_post", 1)):
            pass


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
    model, values = tiny("olmoe"), random_rows(MASK, 100)
    inputs = packed_inputs(model, TOKENS, STARTS)
    with given_to_experts(model) as found, recording(model, point) as routing:
        logits(model, inputs)
        with replacing(model, point, values, MASK):
            logits(model, inputs)
    clean, live = found[:3], found[3:]
    same = [torch.equal(one[1], two[1]) for one, two in zip(clean, live, strict=True)]
    assert list(routing) == [layer for layer in range(3) if not same[layer]] == layers
