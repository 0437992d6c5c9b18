"""Passes over stored text: each target once, with the loss that a plain loop finds; changed as they run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from conftest import MOE
from families import tiny
from moediff.analysis.reruns import Pass, Text, passes
from moediff.corpus.packing import segment_starts
from moediff.corpus.token_shards import TokenShard, read_token_shard
from moediff.hooks.routing import keep, routing
from moediff.models.families import routers
from moediff.models.inputs import model_inputs


@pytest.fixture
def shards(token_shard) -> list[TokenShard]:
    return [
        read_token_shard(token_shard(f"{n}.h5", sequences=5, length=24, seed=n)) for n in (0, 1, 2)
    ]


def text_of(shards: list[TokenShard], sides: int = 1) -> list[list[Text]]:
    return [[Text(shard)] * sides for shard in shards]


def test_few_sequences_are_those_of_most_groups_where_the_first_have_too_few() -> None:
    group = np.array([[1, 1, 1], [1, 1, 2], [3, 4, 5], [5, 5, 5], [6, 6, -1], [7, 8, 9], [2, 6, 6]])
    shard = TokenShard(
        group, np.arange(21).reshape(7, 3), group, np.zeros_like(group), group, group, group, ("one",),
        "t", (), 0, "d",
    )  # fmt: skip

    def read(sequences: int, groups: int, batch: int = 2) -> list[int]:
        found = passes([None], [[Text(shard)]], False, sequences, batch, "read", groups)
        return [n for (run,) in found for n in np.arange(7)[run.part].tolist()]

    assert read(3, 5) == [0, 1, 2]  # of five already
    assert read(3, 6) == [1, 2, 5]
    assert read(3, 6, batch=5) == [1, 2, 5]
    assert read(3, 0) == [0, 1, 2]
    assert read(1, 10) == [2]
    assert read(7, 99) == list(range(7))
    twice = passes([None], [[Text(shard)]] * 2, False, 8, 7, "read", 9)
    assert [np.arange(7)[run.part].tolist() for (run,) in twice] == [list(range(7)), [0]]


def losses_by_domain(model, shards: list[TokenShard], sequences: int, change) -> np.ndarray:
    """What an analysis adds to the runner: nats a token, by domain."""
    nats = count = np.zeros(2)
    for (run,) in passes([model], text_of(shards), False, sequences, 3, "fewer experts"):
        with routing(model, change):
            losses = run.losses()
        nats = nats + np.bincount(run.domain, losses, 2)
        count = count + np.bincount(run.domain, minlength=2)
    return nats / count


@pytest.mark.parametrize("family", ["olmoe", "qwen3-moe"])
def test_the_loss_with_one_expert_is_that_of_a_plain_loop(shards, family: str) -> None:
    """Sequence by sequence, with gates cut by hand where the experts are called."""
    model = tiny(family)
    found = losses_by_domain(model, shards, 8, keep(1))

    def first_gate(_, given: tuple) -> tuple:
        hidden, experts, gates = given
        return hidden, experts, gates * (gates == gates.amax(-1, keepdim=True))

    nats: dict[int, list[float]] = {0: [], 1: []}
    experts = [part for name, part in model.named_modules() if name.endswith(".experts")]
    handles = [part.register_forward_pre_hook(first_gate) for part in experts]
    for shard, row in [(shards[0], n) for n in range(5)] + [(shards[1], n) for n in range(3)]:
        tokens, document = shard.tokens[row : row + 1], shard.document[row]
        with torch.no_grad():
            logits = model(**model_inputs(tokens, segment_starts(document[None]), "cpu")).logits[0]
        for position in range(1, 24):
            if document[position] == document[position - 1]:
                chances = F.log_softmax(logits[position - 1].double(), -1)
                domain = int(shard.domain[row, position])
                nats[domain].append(-float(chances[int(tokens[0, position])]))
    for handle in handles:
        handle.remove()
    assert len(handles) == len(routers(model)) == 3
    np.testing.assert_allclose(found, [np.mean(nats[0]), np.mean(nats[1])], atol=2e-5)
    assert np.abs(found - losses_by_domain(model, shards, 8, keep(2))).max() > 1e-3


def test_all_experts_kept_have_the_models_own_loss_to_the_bit(shards) -> None:
    model = tiny("deepseek-v3")
    for (run,) in passes([model], text_of(shards), False, 99, 4, "all experts"):
        plain = run.losses()
        with routing(model, keep(3)):
            assert np.array_equal(run.losses(), plain)


def test_every_sequence_that_is_asked_for_is_run_once_in_order(shards) -> None:
    model = tiny("olmoe")

    def read(count: int):
        yield from text_of(shards[:count])
        raise AssertionError("another shard is read")

    runs = [run for (run,) in passes([model], read(2), False, 9, 2, "some")]
    assert [(run.tokens.digest, run.part.start, run.part.stop) for run in runs] == [
        (shard.digest, first, last)
        for shard, parts in zip(shards, [[(0, 2), (2, 4), (4, 5)], [(0, 2), (2, 4)]], strict=False)
        for first, last in parts
    ]
    assert [len(run.inputs["input_ids"]) for run in runs] == [2, 2, 1, 2, 2]
    assert len(list(passes([model], text_of(shards), False, 99, 5, "more than there are"))) == 3
    assert list(passes([model], [], False, 5, 5, "none")) == []


@pytest.mark.parametrize("across", [False, True])
def test_targets_are_what_has_something_before_it(shards, tiny_model, across: bool) -> None:
    shard = shards[0]
    run = Pass(tiny_model(MOE).eval(), Text(shard), slice(1, 4), across)
    same = shard.document[1:4, 1:] == shard.document[1:4, :-1]
    assert np.array_equal(run.target, same | across)
    assert np.array_equal(run.units.group, shard.group[1:4, 1:][same | across])
    assert np.array_equal(run.domain, shard.domain[1:4, 1:][same | across])
    assert np.array_equal(run.units.domain, run.domain)
    assert run.losses().shape == (run.target.sum(),) == run.domain.shape


def test_models_run_side_by_side_read_the_same_sequences_each_in_its_own_text(shards) -> None:
    pair = [tiny("olmoe"), tiny("llama")]
    other = replace(shards[0], tokens=(shards[0].tokens + 1) % 60)
    kept = np.arange(24) % 3 == np.zeros((5, 1))
    texts = [[Text(shards[0], kept), Text(other, ~kept)]]
    for one, two in passes(pair, texts, False, 5, 2, "two"):
        assert one.model is pair[0]
        assert two.model is pair[1]
        assert one.part == two.part
        assert torch.equal((one.inputs["input_ids"] + 1) % 60, two.inputs["input_ids"])
        assert torch.equal(one.kept, ~two.kept)
        assert torch.equal(one.kept, torch.from_numpy(kept[one.part]))
