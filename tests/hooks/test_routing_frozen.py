"""Routing recorded in one pass and held in others."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from families import MOE_FAMILIES, tiny
from moediff.core.errors import UserError
from moediff.hooks.interventions import intervene, replace
from moediff.hooks.points import Point
from moediff.hooks.routing import freezing, recording
from moediff.models.families import blocks, routers
from rerouted import EVERY, MASK, logits


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
