"""Parts of a model that learn while all others stay as they began."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import DENSE, MOE, PLAN, SCHEMA
from moediff.core.errors import UserError
from moediff.corpus.token_shards import TokenSplit
from moediff.training import loop
from moediff.training.step import Step
from moediff.training.trainable import TRAINABLE

CPU = torch.device("cpu")
ROUTER = replace(PLAN, trainable="router")


@pytest.fixture
def data(token_shard) -> TokenSplit:
    return TokenSplit([token_shard()])


def test_router_names_the_routers_alone(tiny_model) -> None:
    model = tiny_model(MOE)
    gates = [f"model.layers.{layer}.mlp.gate.weight" for layer in range(2)]
    assert TRAINABLE["router"](model) == gates
    assert TRAINABLE["router"](tiny_model(DENSE)) == []
    assert TRAINABLE["all"](model) == [name for name, _ in model.named_parameters()]


def test_only_routers_change_when_only_they_learn(data, tiny_model, tmp_path: Path) -> None:
    model, before = tiny_model(MOE), tiny_model(MOE).state_dict()
    history = loop.train(model, ROUTER, data, data, tmp_path, CPU)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != name.endswith("mlp.gate.weight"), name
    curve = history.filter(split="train", domain="all", name="cross_entropy")["value"]
    assert curve[-1] < curve[0]


def test_the_optimizer_holds_what_learns_and_nothing_else(data, tiny_model) -> None:
    model = tiny_model(MOE)
    step = Step(model, ROUTER, CPU)
    step.take(data, np.arange(4), 1e-2)
    (adamw,) = step.optimizers
    held = {id(p) for group in adamw.param_groups for p in group["params"]}
    routers = {id(layer.mlp.gate.weight) for layer in model.model.layers}
    assert held == routers
    assert {id(parameter) for parameter in adamw.state} == routers


def test_a_killed_run_of_routers_ends_with_the_same_bytes(
    data, tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_model(MOE)
    history = loop.train(whole, ROUTER, data, data, tmp_path / "whole", CPU)
    plain, steps = Step.take, 0

    def kill(*arguments: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 8:  # two steps after a checkpoint
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(Step, "take", kill)
    with pytest.raises(KeyboardInterrupt):
        loop.train(tiny_model(MOE), ROUTER, data, data, tmp_path / "killed", CPU)
    resumed = tiny_model(MOE, seed=5)  # frozen weights too come from the checkpoint
    steps = 100
    again = loop.train(resumed, ROUTER, data, data, tmp_path / "killed", CPU)
    assert steps < 100 + 12
    assert again.equals(history)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_part_that_a_model_lacks_is_refused(tiny_model) -> None:
    with pytest.raises(UserError, match="no router to train"):
        Step(tiny_model(DENSE), ROUTER, CPU)


def test_the_schema_names_every_part() -> None:
    assert SCHEMA["properties"]["training"]["properties"]["trainable"]["enum"] == list(TRAINABLE)
