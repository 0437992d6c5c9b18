"""A model whose layers accelerate has placed is read and changed as one that lies whole on a device.

accelerate really moves weights here: most lie on disk, and are in memory only while their layer runs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from conftest import DENSE, MOE, cached
from families import tiny
from moediff.corpus.token_shards import read_token_shard
from moediff.hooks.capture import Capture
from moediff.hooks.interventions import ablate, add, intervene
from moediff.hooks.points import HOOKS, Point
from moediff.hooks.proofs import prove, prove_packing
from moediff.hooks.resuming import Beginning
from moediff.hooks.routing import freezing, keep, mask, recording, routing
from moediff.models import loading
from moediff.models.families import blocks, routers
from moediff.models.placement import input_device
from rerouted import MASK, STARTS, TOKENS, inputs_of, logits

accelerate = pytest.importorskip("accelerate")

POINTS = [Point(hook, layer) for layer in range(3) for hook in HOOKS]
CHANGED = Point("resid_mid", 1)


def dispatched(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """A model with its second block in memory and all else on disk, fetched by hooks of accelerate."""
    named = {name: part for name, part in model.named_modules() if part in set(blocks(model))}
    beside = {
        name.rpartition(".")[0]: "disk"
        for name in model.state_dict()
        if not name.startswith(tuple(f"{block}." for block in named))
    }
    where = {**beside, **dict.fromkeys(named, "disk"), list(named)[1]: "cpu"}
    return accelerate.dispatch_model(model, where, main_device="cpu", offload_dir=str(folder))


def away(model: PreTrainedModel) -> bool:
    """Whether the weights of the second block are there and no others."""
    there = {name: parameter.device.type != "meta" for name, parameter in model.named_parameters()}
    return all(held == (".1." in name) for name, held in there.items())


def read(model: PreTrainedModel) -> dict[str, Tensor]:
    """What captures, edits and changed routings give."""
    inputs, routed = inputs_of(model), bool(routers(model))
    found = {"clean": logits(model)}
    with Capture(model, POINTS, routing=routed, probabilities=routed) as capture:
        captured = capture(**inputs)
    found |= {str(point): value for point, value in captured.points.items()}
    for layer, used in captured.routing.items():
        found |= {f"{name}.{layer}": getattr(used, name) for name in ("experts", "gates")}
        found[f"probabilities.{layer}"] = used.probabilities
    for name, edit in {"ablate": ablate(), "add": add(torch.ones(32))}.items():
        with intervene(model, CHANGED, edit, MASK):
            found[name] = logits(model)
    begun = Beginning(model, CHANGED)
    begun.prove(inputs)
    assert len(begun.blocks) == 1  # one is skipped, and proved to change nothing
    with begun.kept(), recording(model, CHANGED) as clean:
        logits(model)
    with begun.skipped(), intervene(model, CHANGED, ablate(), MASK), freezing(model, clean):
        found["spliced and frozen"] = logits(model)
    for name, change in {"keep": keep(1), "mask": mask([0, 3])}.items() if routed else ():
        with routing(model, change):
            found[name] = logits(model)
    prove(model, [CHANGED], inputs)
    prove_packing(model, TOKENS, STARTS)
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3-moe", "deepseek-v3", "gpt-oss"])
def test_a_placed_model_gives_what_a_whole_one_does_to_the_bit(family: str, tmp_path: Path) -> None:
    loading.save(tiny(family), tmp_path / "model")
    whole = read(loading.load(tmp_path / "model"))
    model = dispatched(loading.load(tmp_path / "model"), tmp_path / "away")
    assert model.device.type == "meta"
    assert away(model)
    found = read(model)
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(found[name], value), name
    assert away(model)
    assert input_device(model) == torch.device("cpu")


@pytest.mark.parametrize("architecture", [DENSE, MOE], ids=["dense", "moe"])
def test_rows_of_a_placed_model_are_those_of_a_whole_one(
    architecture: dict, token_shard, tiny_model, tmp_path: Path
) -> None:
    shard = read_token_shard(token_shard())
    whole = cached(tiny_model(architecture).eval(), shard, tmp_path / "whole.zip")
    model = dispatched(tiny_model(architecture).eval(), tmp_path / "away")
    placed = cached(model, shard, tmp_path / "placed.zip")
    np.testing.assert_array_equal(placed.read("resid_post.1"), whole.read("resid_post.1"))
