"""Experts left out: scores by hand, and the smaller model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from families import MOE_FAMILIES, tiny
from moediff.core.errors import UserError
from moediff.core.terms import ALL
from moediff.corpus.token_shards import TokenShard
from moediff.experts import pruning
from moediff.experts.pruning import Choice, Usage, left_out, pruned, without
from moediff.hooks.slots import slots
from moediff.models.families import expert_count, routers, top_k
from routed import known_shard, two_passes

GROUPED = ("deepseek-v2, groups", "deepseek-v3")
IDS = torch.randint(1, 60, (2, 12), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def shard(token_shard) -> TokenShard:
    return known_shard(token_shard(sequences=6, length=16))


def test_scores_by_hand() -> None:
    """Three tokens, two experts, k = 1: tokens 0 and 2 go to expert 0, token 1 to expert 1."""
    gates, norms, experts = (
        np.array([0.5, 0.8, 1.0]),
        np.array([2.0, 3.0, 4.0]),
        np.array([0, 1, 0]),
    )
    used = Usage(*(np.bincount(experts, w, 3) for w in (np.ones(3), gates, gates * norms, norms)))
    random = np.random.default_rng(0)
    assert pruning.reap(used, random).tolist() == pytest.approx([(1 + 4) / 2, 2.4, 0])
    assert pruning.frequency(used, random).tolist() == [2, 1, 0]
    assert pruning.gate_share(used, random).tolist() == pytest.approx([1.5, 0.8, 0])
    assert pruning.norm(used, random).tolist() == pytest.approx([3, 3, 0])


def test_usage_is_that_of_each_token_and_expert(shard: TokenShard) -> None:
    model, (domains, whole) = tiny("qwen2-moe"), (shard.domains, {})
    found = pruning.measured(two_passes(model, shard), False, domains)
    for run in two_passes(model, shard):
        with slots(model, [0, 1, 2]) as parts, torch.no_grad():
            model(**run.inputs)
        target = np.zeros_like(run.starts)
        target[:, :-1] = run.target
        domain = shard.domain[run.part].ravel()
        for layer, token in ((layer, token) for layer in parts for token in np.flatnonzero(target)):
            here = parts[layer]
            for slot in range(2):
                size = float(here.parts[token, slot].double().norm())
                for name in (ALL, domains[domain[token]]):
                    key = name, layer, int(here.experts[token, slot])
                    sums = whole.setdefault(key, np.zeros(3))
                    sums += [1, float(here.gates[token, slot]), size]
    for name, by_layer in found.items():
        for layer, used in by_layer.items():
            for expert in range(8):
                wanted = whole.get((name, layer, expert), np.zeros(3))
                measured = used.tokens[expert], used.gates[expert], used.weighed[expert]
                assert measured == pytest.approx(wanted, rel=1e-5)
    assert set(found) == {ALL, *domains}


def test_renormalised_gates_of_a_token_sum_to_one(shard: TokenShard) -> None:
    model = tiny("qwen3-moe, raw")
    (plain, scaled) = (
        pruning.measured(two_passes(model, shard), same, shard.domains)[ALL][1]
        for same in (False, True)
    )
    assert scaled.gates.sum() == pytest.approx(scaled.tokens.sum() / 2)
    assert plain.gates.sum() < scaled.gates.sum()
    assert np.array_equal(plain.norms, scaled.norms)


def test_the_lowest_go_and_some_always_stay() -> None:
    used = Usage(
        np.ones(4), np.array([4.0, 3, 2, 1]), np.array([4.0, 3, 2, 1]), np.array([1.0, 1, 1, 9])
    )
    assert left_out({0: used}, "reap", 0.5, 1) == {0: [2, 3]}
    assert left_out({0: used}, "reap", 0.5, 1, protect=1) == {0: [1, 2]}
    assert left_out({0: used}, "reap", 0.25, 3) == {0: [3]}  # a token uses three
    assert left_out({0: used}, "reap", 1, 1) == {0: []}
    equal = Usage(*(np.ones(4) for _ in range(4)))
    assert left_out({0: equal}, "frequency", 0.5, 1) == {0: [2, 3]}
    drawn = [left_out({5: used}, "random", 0.5, 1, seed=seed)[5] for seed in range(8)]
    assert len({tuple(gone) for gone in drawn}) > 1


@pytest.mark.parametrize("family", [name for name in MOE_FAMILIES if name not in GROUPED])
def test_the_smaller_model_is_the_masked_one(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    gone = {layer: [1, 2 + layer] for layer in routers(model)}
    smaller = pruned(model, gone)
    assert expert_count(smaller) == 6
    assert top_k(smaller) == top_k(model)
    with torch.no_grad():
        with without(model, gone):
            wanted = model(input_ids=IDS).logits
        torch.testing.assert_close(smaller(input_ids=IDS).logits, wanted, rtol=0, atol=1e-5)
        smaller.save_pretrained(tmp_path)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path)
        torch.testing.assert_close(plain(input_ids=IDS).logits, wanted, rtol=0, atol=1e-5)
        whole = pruned(model, {})
        assert torch.equal(whole(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert sum(p.numel() for p in smaller.parameters()) == pruning.parameters(model, 2)


@pytest.mark.parametrize("family", GROUPED)
def test_experts_in_groups_are_refused(family: str) -> None:
    model = tiny(family)
    with pytest.raises(
        UserError, match="its experts are chosen by groups, which pruning would change"
    ):
        pruned(model, {layer: [0, 1] for layer in routers(model)})


def test_what_cannot_be_pruned_is_refused() -> None:
    model = tiny("mixtral")
    with pytest.raises(UserError, match=r"as many experts must go in every layer, not \[0, 1\]"):
        pruned(model, {0: [3]})
    with pytest.raises(UserError, match="1 experts are left and a token uses 2"):
        pruned(model, {layer: range(7) for layer in range(3)})


def test_costs_are_those_of_the_smaller_models(shard: TokenShard) -> None:
    model = tiny("olmoe")
    usage = pruning.measured(two_passes(model, shard), True, shard.domains)
    choice = Choice(["reap", "random"], [1.0, 0.5, 0.25])
    table = pruning.prune_costs(usage, choice, two_passes(model, shard), shard.domains)
    assert not (table.filter(table["score"].is_not_null())["keep"] == 1).any()
    row = table.filter(
        (table["chosen_on"] == ALL)
        & (table["score"] == "reap")
        & (table["keep"] == 0.5)
        & (table["domain"] == ALL)
    ).row(0, named=True)
    assert row["kept"] == 4
    gone = left_out(usage[ALL], "reap", 0.5, 2)
    smaller = pruned(model, gone)
    losses = np.concatenate([run.losses() for run in two_passes(smaller, shard)])
    assert row["cross_entropy"] == pytest.approx(losses.mean(), abs=1e-6)
    assert row["parameters"] == sum(p.numel() for p in smaller.parameters())
    first = table.row(0, named=True)
    assert (first["score"], first["kept"], first["cost"]) == (None, 8, 0)
    assert first["parameters"] == sum(p.numel() for p in model.parameters())
