"""The expert lens: closed forms, and models made by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from families import MOE_FAMILIES, tiny
from moediff.core.terms import ALL
from moediff.corpus.token_shards import TokenShard
from moediff.experts import lens
from moediff.hooks.slots import Slots
from moediff.models.families import blocks, routers
from routed import known_shard, two_passes


@pytest.fixture
def shard(token_shard) -> TokenShard:
    return known_shard(token_shard(sequences=6, length=16))


def orthogonal(k: int, tokens: int = 7, d: int = 24, experts: int = 9) -> Slots:
    """Slots of k experts of equal gates whose outputs are orthogonal and of length 1."""
    parts = torch.eye(d)[:k].expand(tokens, k, d).clone()
    gates = torch.full((tokens, k), 1 / k)
    layer = SimpleNamespace(
        gates=gates, experts=torch.arange(k).expand(tokens, k), logits=torch.zeros(tokens, experts),
        adds=lambda chosen, weights: torch.eye(d)[k].expand(tokens, d),
    )  # fmt: skip
    return Slots(layer, parts.sum(1), torch.zeros(tokens, d), parts)


def readings(found: Slots, stream: torch.Tensor) -> dict[tuple, torch.Tensor]:
    rows = torch.arange(len(found.gates))
    after = stream + found.shared + found.parts.sum(1)
    random = torch.Generator().manual_seed(0)
    said = lens._wanted(after)
    return dict(lens._readings(found, rows, stream, after, said, lambda values: values, random))


@pytest.mark.parametrize("a", [0.0, 1.0, 10.0])
def test_orthogonal_experts_have_the_cosines_of_theory(a: float) -> None:
    """cos(H_j, H_k) = (j / k)^0.5; with an orthogonal stream of length a (a^2 + j) / ((a^2 + j)(a^2 +
    k))^0.5."""
    k = 6
    found = orthogonal(k)
    stream = torch.zeros(7, 24)
    stream[:, 20] = a
    measured = readings(found, stream)
    for j in range(1, k + 1):
        bare = measured["heaviest", j, "none", "routed"][:, 0]
        assert bare.numpy() == pytest.approx(math.sqrt(j / k), abs=1e-6)
        beside = measured["heaviest", j, "stream", "routed"][:, 0]
        wanted = (a**2 + j) / math.sqrt((a**2 + j) * (a**2 + k))
        assert beside.numpy() == pytest.approx(wanted, abs=1e-6)
    assert measured["heaviest", 1, "stream", "routed"][0, 0] == pytest.approx(
        {0.0: 0.408, 1.0: 0.535, 10.0: 0.976}[a], abs=1e-3
    )
    # Renormalised, one expert weighs as all did: k times as much, which a stream feels.
    more = (a**2 + k) / math.sqrt((a**2 + k**2) * (a**2 + k))
    assert measured["heaviest", 1, "stream", "renormalised"][:, 0].numpy() == pytest.approx(
        more, abs=1e-6
    )
    assert measured["heaviest", 1, "none", "renormalised"][:, 0].numpy() == pytest.approx(
        math.sqrt(1 / k), abs=1e-6
    )
    # One that was not chosen is orthogonal to all that were.
    assert measured["random unchosen", 1, "none", "routed"][:, 0].abs().max() < 1e-6
    assert measured["random chosen", 1, "none", "routed"][:, 0].numpy() == pytest.approx(
        math.sqrt(1 / k), abs=1e-6
    )
    # The whole is the layer.
    whole = measured["heaviest", k, "stream", "routed"]
    assert whole[:, 0].numpy() == pytest.approx(1)
    assert whole[:, 2].abs().max() < 1e-6
    assert whole[:, 4].min() == 1


def test_of_what_is_nothing_the_cosine_is_zero() -> None:
    one = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert lens.cosine(one, torch.ones(2, 2)).tolist() == pytest.approx([0, math.sqrt(0.5)])
    found = orthogonal(2)
    found.parts[:, 1] = -found.parts[:, 0]  # two experts that cancel
    measured = readings(found, torch.zeros(7, 24))
    assert not measured["heaviest", 1, "none", "routed"][:, 0].any()


def test_an_expert_with_all_of_the_gate_says_all(shard: TokenShard) -> None:
    """Two experts, the second with a gate of next to nothing: its absence is not seen."""
    model = tiny("mixtral")
    for router in routers(model).values():
        router.weight.data *= 1e4
    table = lens.expert_lens(two_passes(model, shard), shard.domains, None)
    one = table.filter((table["term"] == "heaviest") & (table["experts"] == 1))
    assert one["cosine"].min() > 0.999
    assert one.filter(one["stream"] == "stream")["kl_layer"].max() < 1e-3


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_with_all_experts_a_layer_says_what_it_says(family: str, shard: TokenShard) -> None:
    model = tiny(family)
    table = lens.expert_lens(two_passes(model, shard), shard.domains, None)
    assert table["layer"].unique().sort().to_list() == list(routers(model))
    k = table["experts"].max()
    shared = "stream and shared" in table["stream"]
    whole = table.filter(
        (table["term"] == "heaviest") & (table["experts"] == k)
        & (table["stream"] == ("stream and shared" if shared else "stream"))
    )  # fmt: skip
    assert whole["cosine"].min() == pytest.approx(1)
    assert whole["cosine_layer"].min() == pytest.approx(1, abs=1e-5)
    assert whole["kl_layer"].abs().max() < 1e-6
    assert whole["agrees_layer"].min() == 1
    last = whole.filter(whole["layer"] == len(blocks(model)) - 1)
    assert last["kl_model"].abs().max() < 1e-6
    # Domains are parts of all text.
    names = ["layer", "term", "experts", "stream", "weights"]
    summed = table.with_columns(sum=table["cosine"] * table["tokens"])
    every = summed.filter(table["domain"] == ALL).sort(names)
    parts = summed.filter(table["domain"] != ALL).group_by(names).agg(pl.col("tokens", "sum").sum())
    assert every["tokens"].equals(parts.sort(names)["tokens"])
    assert np.allclose(every["sum"], parts.sort(names)["sum"])


def test_some_positions_of_each_sequence_are_read_and_the_same_each_time(shard: TokenShard) -> None:
    model = tiny("olmoe")
    tables = [lens.expert_lens(two_passes(model, shard), shard.domains, 4) for _ in range(2)]
    assert tables[0].equals(tables[1])
    assert tables[0].filter(tables[0]["domain"] == ALL)["tokens"].unique().to_list() == [24]
