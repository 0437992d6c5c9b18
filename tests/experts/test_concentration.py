"""Concentration of routing: every number by hand or from theory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moediff.core.errors import UserError
from moediff.core.terms import ALL
from moediff.experts import concentration, routing_record
from routed import routed_rows


def test_even_routing_has_even_shares() -> None:
    found = concentration.concentration(np.full(8, 25.0), 100, 2)
    assert found["busiest_share"] == 2 / 8
    assert found["slots_of_busiest"] == 2 / 8
    assert found["experts_for_half_of_slots"] == 4
    assert found["entropy"] == pytest.approx(1)
    assert found["gini"] == pytest.approx(0)
    assert found["preferred"] == found["unused"] == 0


def test_routing_to_the_same_k_is_as_concentrated_as_can_be() -> None:
    uses = np.zeros(8)
    uses[[1, 5]] = 100
    found = concentration.concentration(uses, 100, 2)
    assert found["busiest_share"] == 1
    assert found["slots_of_busiest"] == 1
    assert found["experts_for_half_of_slots"] == 1
    assert found["entropy"] == pytest.approx(np.log(2) / np.log(8))
    assert found["gini"] == pytest.approx(1 - 2 / 8)
    assert found["preferred"] == 2
    assert found["unused"] == 6


def test_uses_that_are_not_k_a_token_are_refused() -> None:
    with pytest.raises(UserError, match="99 uses of experts by 50 tokens, of which each has 2"):
        concentration.concentration(np.array([50.0, 49.0]), 50, 2)


def test_half_of_tokens_and_half_of_slots_are_two_things() -> None:
    # Expert 0 is in every token's choice: one expert reaches all tokens and has half of the slots.
    experts = np.stack([np.zeros(6, int), np.arange(1, 7)], 1)
    assert concentration.experts_for_half_of_tokens(experts, 7) == 1
    assert (
        concentration.concentration(np.bincount(experts.ravel()), 6, 2)["experts_for_half_of_slots"]
        == 1
    )
    # Of pairs 01, 23, 45 the first expert reaches a third of the tokens, two of one pair no more of them.
    pairs = np.array([[0, 1], [2, 3], [4, 5]])
    assert concentration.experts_for_half_of_tokens(pairs, 6) == 3  # 0, 1 and then 2, by number
    assert concentration.concentration(np.ones(6), 3, 2)["experts_for_half_of_slots"] == 3


def test_tables_hold_every_domain_and_all_text() -> None:
    experts = np.array([[0, 1], [0, 2], [3, 1]])
    gates = np.array([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3]])
    found, table = concentration.layer_tables(
        experts, gates, np.array([0, 0, 2]), ["a", "b", "c"], 5
    )
    assert set(found) == {ALL, "a", "c"}  # b has no token
    assert found["a"]["tokens"] == 2
    assert found["a"]["busiest_share"] == 1
    rows = {(r["domain"], r["expert"]): r for r in table.iter_rows(named=True)}
    assert rows["a", 0]["gate"] == pytest.approx(0.75)
    assert rows["a", 0]["gate_share"] == pytest.approx(0.75)
    assert rows["a", 3]["gate"] is None
    assert rows[ALL, 1]["share"] == pytest.approx(2 / 3)
    assert table.group_by("domain").agg(total=table["share"].sum()).height == 3


def test_co_activation_of_even_choices_is_as_expected() -> None:
    random = np.random.default_rng(0)
    experts = random.random((40_000, 8)).argsort(1)[:, :2]
    table = concentration.co_activation(experts, 8)
    assert table.height == 28
    assert table["together"].sum() == pytest.approx(1)  # of k = 2 each token uses one pair
    assert np.abs(table["together"].to_numpy() - 1 / 28).max() < 5 * (1 / 28 / 40_000) ** 0.5
    always = concentration.co_activation(np.tile([1, 3, 6], (9, 1)), 8)
    used = always.filter(always["together"] > 0)
    assert used.select("expert", "other").rows() == [(1, 3), (1, 6), (3, 6)]
    assert used["together"].to_list() == [1, 1, 1]


def test_cosines_of_a_routers_rows() -> None:
    assert concentration.router_cosine(np.eye(4))["mean_size"] == 0
    one = concentration.router_cosine(np.array([[1.0, 0], [2, 0], [-1, 0]]))
    assert one["mean"] == pytest.approx(-1 / 3)
    assert one["mean_size"] == one["largest"] == pytest.approx(1)
    assert concentration.router_cosine(np.zeros((3, 2))) == {}


def test_overlap_is_of_the_busiest_k() -> None:
    shares = {"a": np.array([0.9, 0.8, 0.2, 0.1]), "b": np.array([0.9, 0.1, 0.8, 0.2])}
    assert concentration.overlap(shares, 2) == {"a, b": 1 / 3}


def test_no_more_tokens_are_read_than_are_asked_for(tmp_path: Path, token_shard) -> None:
    _, _, data = routed_rows(tmp_path, token_shard, ("resid_post", 1))
    (shard,) = data.sources[0]
    each = shard.count
    twice = routing_record.read([shard.path, shard.path], 8)
    assert len(twice.token) == 2 * each
    for tokens in (1, each - 1, each, each + 1, 2 * each, 3 * each):
        some = routing_record.read([shard.path, shard.path], 8, tokens)
        count = min(tokens, 2 * each)
        for name in ("token", "group", "domain"):
            assert getattr(some, name).tolist() == getattr(twice, name)[:count].tolist()
        assert list(some.layers) == list(twice.layers) == [0, 1]
        for layer, (experts, gates) in some.layers.items():
            np.testing.assert_array_equal(experts, twice.layers[layer][0][:count])
            np.testing.assert_array_equal(gates, twice.layers[layer][1][:count])
