"""What each expert adds to the stream, in every family."""

from __future__ import annotations

import pytest
import torch

from families import MOE_FAMILIES, tiny
from moediff.core.errors import UserError
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point
from moediff.hooks.routing import keep, routing
from moediff.hooks.slots import slots
from moediff.models.families import blocks, routers

IDS = torch.randint(1, 60, (2, 12), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_experts_by_their_gates_and_what_is_shared_are_what_the_layer_adds(family: str) -> None:
    model = tiny(family)
    layers = list(routers(model))
    points = [Point("mlp_out", layer) for layer in layers]
    with slots(model, layers) as found, Capture(model, points) as capture:
        passed = capture(input_ids=IDS).points
    for layer, point in zip(layers, points, strict=True):
        wanted = passed[point].flatten(0, 1)
        here = found[layer]
        torch.testing.assert_close(here.whole, wanted, rtol=0, atol=0)
        summed = here.shared + here.parts.sum(1)
        assert float((summed - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
        assert bool((here.gates[:, 1:] <= here.gates[:, :-1]).all())
        # An expert of a slot, asked for as if it were another, adds what it added there.
        other = here.alone(here.experts[:, 1], here.gates[:, 1])
        assert float((other - here.parts[:, 1]).abs().max()) < 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_reading_them_changes_nothing_of_the_pass(family: str) -> None:
    model = tiny(family)
    with torch.no_grad():
        plain = model(input_ids=IDS).logits
        with slots(model, list(routers(model))):
            assert torch.equal(model(input_ids=IDS).logits, plain)
        assert torch.equal(model(input_ids=IDS).logits, plain)


def test_they_are_those_of_the_routing_as_it_is_changed() -> None:
    model = tiny("mixtral")
    with slots(model, [1]) as found, routing(model, keep(1)), torch.no_grad():
        model(input_ids=IDS)
    assert not found[1].parts[:, 1].any()
    assert found[1].parts[:, 0].any()


def test_a_layer_without_experts_is_refused() -> None:
    model = tiny("deepseek-v2")
    with pytest.raises(UserError, match="layer 0 has no experts"):
        with slots(model, [0]):
            pass


def test_a_norm_behind_the_experts_is_refused() -> None:
    model = tiny("qwen3-moe")
    blocks(model)[1].post_feedforward_layernorm = torch.nn.Identity()
    with pytest.raises(UserError, match="layer 1 has a norm after its experts"):
        with slots(model, [1]):
            pass
