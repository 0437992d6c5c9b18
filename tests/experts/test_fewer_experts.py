"""What fewer experts cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from families import MOE_FAMILIES, tiny
from moediff.core.bootstrap import Units
from moediff.core.errors import UserError
from moediff.core.terms import ALL
from moediff.corpus.token_shards import TokenShard
from moediff.experts import costs
from moediff.experts.ablation import _any, _chosen, _second, fewer_experts
from moediff.hooks.capture import Capture
from moediff.hooks.points import Point
from moediff.hooks.routing import alone, keep, routing
from moediff.models.families import routers, top_k
from routed import known_shard, two_passes


@pytest.fixture
def shard(token_shard) -> TokenShard:
    return known_shard(token_shard(sequences=6, length=16))


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_with_all_experts_the_loss_is_the_models_own(family: str, shard: TokenShard) -> None:
    model, k = tiny(family), top_k(tiny(family))
    table = fewer_experts(two_passes(model, shard), [1], shard.domains)
    own = np.concatenate([run.losses() for run in two_passes(model, shard)])
    first = table.row(0, named=True)
    assert (first["domain"], first["k"], first["cost"], first["ratio"]) == (ALL, k, 0, 1)
    assert first["cross_entropy"] == pytest.approx(own.mean(), abs=1e-12)
    with routing(model, keep(k)):
        kept = np.concatenate([run.losses() for run in two_passes(model, shard)])
    assert np.array_equal(kept, own)  # the change of no change, to the bit
    with routing(model, keep(1), [list(routers(model))[-1]]):
        one = np.concatenate([run.losses() for run in two_passes(model, shard)])
    alone = table.filter((table["layer"] == list(routers(model))[-1]) & (table["domain"] == ALL))
    assert alone["cross_entropy"].to_list() == [pytest.approx(one.mean(), abs=1e-6)]


def test_every_setting_stands_once_for_each_domain(shard: TokenShard) -> None:
    model = tiny("deepseek-v2")
    table = fewer_experts(two_passes(model, shard), [1, 2, 9], shard.domains)
    names = ["kind", "k", "weights", "layer", "domain"]
    assert table.select(names).is_unique().all()
    whole = table.filter((table["domain"] == ALL) & table["layer"].is_null())
    assert whole.select("kind", "k", "weights").rows() == [
        ("keep", 3, "routed"), ("keep", 2, "routed"), ("keep", 2, "renormalised"),
        ("keep", 1, "routed"), ("keep", 1, "renormalised"),
        ("second", 1, "routed"), ("random chosen", 1, "routed"), ("random any", 1, "routed"),
    ]  # fmt: skip
    layered = table.filter((table["domain"] == ALL) & table["layer"].is_not_null())
    assert layered.select("layer", "k").rows() == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_experts_that_are_alike_can_be_exchanged(shard: TokenShard) -> None:
    """The second in the place of the first costs nothing where all experts are one and the same."""
    model = tiny("mixtral")
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            parameter.data[:] = parameter.data[:1]
    table = fewer_experts(two_passes(model, shard), [], shard.domains)
    one = table.filter((table["domain"] == ALL) & (table["k"] == 1))
    by = {(r["kind"], r["weights"]): r["cost"] for r in one.iter_rows(named=True)}
    assert by["second", "routed"] == pytest.approx(by["keep", "routed"], abs=1e-6)
    assert by["random any", "routed"] == pytest.approx(by["keep", "routed"], abs=1e-6)
    assert by["keep", "renormalised"] == pytest.approx(0, abs=1e-6)


def test_costs_by_token_and_by_document_are_both_their_means() -> None:
    plain, changed = np.array([1.0, 1, 1, 1]), np.array([2.0, 2, 2, 5])
    document = np.array([7, 7, 7, 9])
    found = costs.cost(plain, changed, Units(document, np.zeros(4)), document)
    assert found["cost"] == 1.75
    assert found["ratio"] == np.exp(1.75)
    assert found["cost_by_document"] == (1 + 4) / 2
    assert found["cross_entropy_by_document"] == (2 + 5) / 2
    assert found["documents"] == 2
    assert found["cost_low"] is None  # of two groups nothing can be drawn


def test_equal_changes_run_once(shard: TokenShard) -> None:
    model, runs = tiny("mixtral"), []

    def noted(plain: PreTrainedModel) -> object:
        runs.append(plain)
        return routing(plain, keep(1))

    wanted = [costs.Setting({"n": n}, noted, same=n % 2) for n in range(6)]
    table = costs.costs(two_passes(model, shard), lambda _: wanted, {"n": None}, shard.domains)
    assert len(runs) == 2 * 2  # two changes, two passes
    assert table.filter(table["domain"] == ALL)["cost"][1:].n_unique() == 1


def test_a_dense_model_is_refused(shard: TokenShard) -> None:
    with pytest.raises(UserError, match="no layer has experts"):
        fewer_experts(two_passes(tiny("llama"), shard), [1], shard.domains)


def test_others_in_the_place_of_the_heaviest_have_its_gate(shard: TokenShard) -> None:
    model = tiny("qwen3-moe")
    ids = torch.from_numpy(shard.tokens.astype(np.int64))
    random = torch.Generator().manual_seed(0)
    with Capture(model, [Point("resid_post", 0)], routing=True) as capture:
        before = capture(input_ids=ids).routing[0]
        inside = {}
        for name, pick in (("second", _second), ("chosen", _chosen(random)), ("any", _any(random))):
            with routing(model, alone(pick), [0]):
                after = capture(input_ids=ids).routing[0]
            assert torch.equal(after.gates[..., 0], before.gates.amax(-1))
            inside[name] = (after.experts == before.experts).any(-1).float().mean()
            if name == "second":
                order = before.gates.argsort(dim=-1, descending=True)
                assert torch.equal(after.experts, before.experts.gather(-1, order[..., 1:]))
    assert inside["second"] == inside["chosen"] == 1
    assert abs(inside["any"] - 2 / 8) < 0.2
