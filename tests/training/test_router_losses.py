"""Router losses: their values by hand and by theory, over layers and over batches of models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from conftest import DENSE, MOE, SCHEMA
from moediff.models.families import routers
from moediff.training.router_losses import ROUTER_LOSSES, balance, summed_over_layers, z
from moediff.training.router_tap import tapped


def summed_balance(logits: list[Tensor], top_k: int) -> float:
    return float(summed_over_layers(logits, top_k, ["balance"])["balance"])


def test_balance_has_its_floor_and_its_ceiling() -> None:
    even = torch.zeros(8, 4)
    even[torch.arange(8), torch.arange(8) % 4] = 1e-4  # all chosen equally often
    even[torch.arange(8), (torch.arange(8) + 1) % 4] = 1e-4
    assert summed_balance([even, even], 2) == pytest.approx(2 * 2, rel=1e-3)
    collapsed = torch.tensor([[50.0, 49.0, 0.0, 0.0]]).repeat(8, 1)
    assert summed_balance([collapsed], 2) == pytest.approx(4, rel=1e-3)


def test_balance_by_hand() -> None:
    """Three tokens, two experts: P of each token (3/4, 1/4), (3/4, 1/4), (1/8, 7/8); two of three choose
    the first, so 2 (2/3 * 13/24 + 1/3 * 11/24) = 37/36."""
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0], [0.0, math.log(7)]])
    assert float(balance(logits, 1)) == pytest.approx(37 / 36)


def test_balance_sees_layers_that_are_unbalanced_in_opposite_ways() -> None:
    one = torch.tensor([[9.0, 0.0]]).repeat(8, 1)
    two = torch.tensor([[0.0, 9.0]]).repeat(8, 1)
    assert summed_balance([torch.cat([one, two])], 1) == pytest.approx(1, rel=1e-3)
    assert summed_balance([one, two], 1) == pytest.approx(4, rel=1e-3)


def test_balance_is_to_the_bit_what_finished_models_were_trained_by() -> None:
    def before(layers: list[Tensor], top_k: int) -> Tensor:
        total = layers[0].new_zeros((), dtype=torch.float32)
        for layer in layers:
            probability = layer.float().softmax(-1)
            chosen = probability.topk(top_k, dim=-1).indices
            used = torch.zeros_like(probability).scatter_(1, chosen, 1.0).mean(0)
            total = total + layer.shape[-1] * (used * probability.mean(0)).sum()
        return total

    random = torch.Generator().manual_seed(0)
    for tokens, experts, top_k in ((1024, 8, 2), (37, 60, 4), (5, 3, 1), (512, 64, 8)):
        layers = [torch.randn(tokens, experts, generator=random).requires_grad_() for _ in range(3)]
        old, new = before(layers, top_k), summed_over_layers(layers, top_k, ["balance"])["balance"]
        assert torch.equal(old, new)
        for one, other in zip(
            torch.autograd.grad(old, layers), torch.autograd.grad(new, layers), strict=True
        ):
            assert torch.equal(one, other)


def test_z_by_hand() -> None:
    """Logits of 0 over two experts: log 2. Of (ln 3, 0): log 4. Their squares' mean, and a sum of layers."""
    two = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    wanted = (math.log(2) ** 2 + math.log(4) ** 2) / 2
    assert float(z(two, 1)) == pytest.approx(wanted)
    assert float(summed_over_layers([two, two], 1, ["z"])["z"]) == pytest.approx(2 * wanted)
    large = torch.tensor([[100.0, 100.0]], dtype=torch.bfloat16)  # float32 inside: no overflow
    assert float(z(large, 1)) == pytest.approx((100 + math.log(2)) ** 2)


@pytest.mark.parametrize("name", ROUTER_LOSSES)
def test_a_router_loss_of_many_models_is_that_of_each(name: str) -> None:
    logits = torch.randn(3, 2, 16, 4, generator=torch.Generator().manual_seed(0))
    together = summed_over_layers([logits, logits], 2, [name])[name]
    assert together.shape == (3, 2)
    assert together.dtype == torch.float32
    for model in range(3):
        for run in range(2):
            alone = 2 * ROUTER_LOSSES[name](logits[model, run], 2)
            torch.testing.assert_close(together[model, run], alone)


@pytest.mark.parametrize("name", ROUTER_LOSSES)
def test_a_router_loss_does_not_know_one_expert_from_another(name: str) -> None:
    logits = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    shuffled = logits[:, torch.tensor([3, 0, 4, 1, 2])]
    loss = ROUTER_LOSSES[name]
    torch.testing.assert_close(loss(logits, 2), loss(shuffled, 2))


def test_the_schema_names_every_router_loss() -> None:
    keys = SCHEMA["properties"]["training"]["properties"]
    assert {"balance", *keys["router_losses"]["properties"]} == set(ROUTER_LOSSES)


def test_routers_are_one_a_layer_of_an_moe_and_none_of_a_dense_model(tiny_model) -> None:
    moe = tiny_model(MOE)
    assert list(routers(moe).values()) == [layer.mlp.gate for layer in moe.model.layers]
    assert routers(tiny_model(DENSE)) == {}


def test_the_logits_tapped_are_those_of_the_tokens_inside(tiny_model) -> None:
    moe = tiny_model(MOE)
    with tapped(moe) as logits:
        moe(torch.arange(12).view(2, 6))
    moe(torch.arange(12).view(2, 6))  # outside: not read
    assert [tuple(layer.shape) for layer in logits] == [(12, 4)] * 2
